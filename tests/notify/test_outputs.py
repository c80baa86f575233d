import subprocess
import sys
from itertools import combinations

import pytest
from dicom.results_data import VALIDATED, make_result, negative, not_analysed
from notify.conftest import NODE, OUTCOMES

from triage.config import FhirOutput, Hl7Output, MailOutput, MessageOutput, WebhookOutput
from triage.notify.facts import Facts
from triage.notify.outputs import build, message_uid, wants
from triage.records import Volume

OUTPUTS: tuple[MessageOutput, ...] = (
    Hl7Output(name="ris", host="ris", port=2575),
    FhirOutput(name="fhir", url="https://fhir/r4"),
    WebhookOutput(name="hook", url="https://hook/in"),
    MailOutput(name="duty", host="mail", sender="a@b.example", recipients=("c@d.example",)),
)


def test_people_get_positives_and_systems_get_all(volume: Volume) -> None:
    results = (make_result(volume), negative(volume), not_analysed())
    wanted = {o.name: [wants(o, r) for r in results] for o in OUTPUTS}
    assert wanted == {"ris": [True] * 3, "fhir": [True] * 3, "hook": [True, False, False], "duty": [True, False, False]}
    everything = OUTPUTS[2].model_copy(update={"only_positive": False})
    assert all(wants(everything, r) for r in results)


def test_a_message_keeps_its_uid_and_no_two_messages_share_one(volume: Volume) -> None:
    result = make_result(volume)
    uids = [
        message_uid("ris", result, NODE), message_uid("ris2", result, NODE), message_uid("ris", result, "node-08"),
        message_uid("ris", make_result(volume, run=2), NODE),
        message_uid("ris", make_result(volume, model=VALIDATED), NODE),
    ]  # fmt: skip
    assert all(a != b for a, b in combinations(uids, 2))
    assert message_uid("ris", make_result(volume), NODE) == uids[0]


@pytest.mark.parametrize("output", OUTPUTS, ids=lambda o: o.name)
def test_every_output_has_a_message_for_every_outcome(output: MessageOutput, outcomes: dict[str, Facts]) -> None:
    made = [build(output, outcomes[kind]) for kind in OUTCOMES]
    assert all(made)
    assert len(set(made)) == len(made)
    assert not [m for m in made if b"diagnos" in m.lower().replace(b"not for diagnostic use", b"").replace(
        b"diagnosticreport", b"").replace(b"not for\r\ndiagnostic use", b"")]  # fmt: skip


def test_importing_does_not_load_the_resources_of_fhir() -> None:
    code = "import sys, triage.notify.outputs; print([m for m in sys.modules if m.startswith('fhir')])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
