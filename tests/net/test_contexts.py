from pydicom.uid import UID, ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian, JPEG2000Lossless

from triage.dicom.decode_child import PLUGINS
from triage.net.contexts import (
    CT_CLASSES,
    LOSSLESS,
    LOSSY,
    MAX_CONTEXTS,
    STORAGE_COMMITMENT,
    TRANSFER_SYNTAXES,
    UNCOMPRESSED,
    VERIFICATION,
    Kind,
    accepted_contexts,
    proposed_contexts,
)

JPEG_EXTENDED = "1.2.840.10008.1.2.4.51"


def test_uncompressed_is_preferred_and_lossy_comes_last() -> None:
    assert TRANSFER_SYNTAXES[: len(UNCOMPRESSED)] == UNCOMPRESSED
    assert TRANSFER_SYNTAXES[-len(LOSSY) :] == LOSSY
    assert len(set(TRANSFER_SYNTAXES)) == len(UNCOMPRESSED) + len(LOSSLESS) + len(LOSSY)


def test_every_compressed_syntax_that_is_accepted_can_be_decoded() -> None:
    for uid in (*LOSSLESS, *LOSSY):
        assert uid in PLUGINS, UID(uid).name


def test_big_endian_and_12_bit_jpeg_are_not_accepted() -> None:
    assert ExplicitVRBigEndian not in TRANSFER_SYNTAXES
    assert JPEG_EXTENDED not in TRANSFER_SYNTAXES


def test_accepts_verification_three_ct_classes_and_answers_to_storage_commitment() -> None:
    contexts = {c.abstract_syntax: c for c in accepted_contexts()}
    assert set(contexts) == {VERIFICATION, STORAGE_COMMITMENT, *CT_CLASSES}
    assert (contexts[STORAGE_COMMITMENT].scu_role, contexts[STORAGE_COMMITMENT].scp_role) == (False, True)
    assert len(CT_CLASSES) == 3
    for uid in CT_CLASSES:
        assert contexts[uid].transfer_syntax == list(TRANSFER_SYNTAXES)


def test_proposes_one_context_a_kind_and_the_default_beside_uncompressed_ones() -> None:
    sr, ct = "1.2.840.10008.5.1.4.1.1.88.34", CT_CLASSES[0]
    kinds = [Kind(sr, ExplicitVRLittleEndian), Kind(ct, JPEG2000Lossless), Kind(sr, ExplicitVRLittleEndian)]
    proposed = [(c.abstract_syntax, c.transfer_syntax) for c in proposed_contexts(kinds)]
    assert proposed == [
        (sr, [ExplicitVRLittleEndian]),
        (sr, [ImplicitVRLittleEndian]),
        (ct, [JPEG2000Lossless]),
    ]


def test_never_proposes_more_contexts_than_there_are_ids() -> None:
    kinds = [Kind(f"1.2.3.{n}", JPEG2000Lossless) for n in range(MAX_CONTEXTS + 5)]
    assert len(proposed_contexts(kinds)) == MAX_CONTEXTS
