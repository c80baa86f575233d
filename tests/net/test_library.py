import logging
from pathlib import Path

from peers import HOST, VERIFICATION, Pacs
from pynetdicom import _config

from triage.dicom import equipment
from triage.net import library


def test_signs_like_the_objects_it_sends() -> None:
    assert library.IMPLEMENTATION_CLASS_UID == equipment.IMPLEMENTATION_CLASS_UID
    assert library.IMPLEMENTATION_VERSION_NAME == equipment.IMPLEMENTATION_VERSION_NAME


def test_nothing_of_a_data_set_is_logged() -> None:
    logging.getLogger("pynetdicom").setLevel(logging.DEBUG)
    library.prepare_library()
    assert logging.getLogger("pynetdicom").level == logging.WARNING
    assert not logging.getLogger("pynetdicom.utils").isEnabledFor(logging.WARNING)
    assert not _config.LOG_REQUEST_IDENTIFIERS
    assert not _config.LOG_RESPONSE_IDENTIFIERS
    assert _config.LOG_HANDLER_LEVEL == "none"


def test_a_stricter_level_stays() -> None:
    logging.getLogger("pynetdicom").setLevel(logging.CRITICAL)
    try:
        library.prepare_library()
        assert logging.getLogger("pynetdicom").level == logging.CRITICAL
    finally:
        logging.getLogger("pynetdicom").setLevel(logging.WARNING)


def test_a_peer_sees_our_implementation(tmp_path: Path) -> None:
    with Pacs(tmp_path) as pacs:
        ae = library.application_entity("US")
        ae.add_requested_context(VERIFICATION)
        association = ae.associate(HOST, pacs.port, ae_title="PACS")
        seen = association.requestor.implementation_class_uid, association.requestor.implementation_version_name
        association.release()
    assert seen == (library.IMPLEMENTATION_CLASS_UID, library.IMPLEMENTATION_VERSION_NAME)
