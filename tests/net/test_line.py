import threading
from pathlib import Path

import pytest
from peers import HOST, VERIFICATION, Pacs, contexts_for, wait_until

from triage.config import Destination
from triage.net.line import associate

# A connection that is aborted is left to the garbage collector by pynetdicom's side of the peer.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")  # pynetdicom's thread dies of it
def test_a_report_in_the_moment_of_the_release_holds_nobody_up(tmp_path: Path) -> None:
    """What pynetdicom's thread for an N-EVENT-REPORT leaves when it ends while the reactor waits."""

    def associated() -> None:
        there = Destination(name="pacs", ae_title="PACS", host=HOST, port=pacs.port, response_timeout_s=0.5)
        with associate("ICHTRIAGE", there, contexts_for(VERIFICATION)) as line:
            line.association._reactor_checkpoint.clear()
            wait_until(lambda: line.association._is_paused, "the pause of the reactor")
            line.association._is_paused = False

    with Pacs(tmp_path) as pacs:
        thread = threading.Thread(target=associated, daemon=True)
        thread.start()
        thread.join(10.0)
        assert not thread.is_alive()
