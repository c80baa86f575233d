"""A machine that only trains has torch, torchvision, numpy, scipy and safetensors: that must do for fitting."""

import subprocess
import sys
from pathlib import Path

BLOCKED = (
    "pydicom", "pynetdicom", "highdicom", "sqlalchemy", "alembic", "apscheduler", "pydantic", "typer", "rich",
    "sklearn", "matplotlib", "tensorboard",
)  # fmt: skip

SCRIPT = """
import sys
from importlib.machinery import PathFinder
class Without:
    @staticmethod
    def find_spec(name, path=None, target=None):
        return None if name.split(".")[0] in {blocked!r} else PathFinder.find_spec(name, path, target)
sys.meta_path = [finder for finder in sys.meta_path if finder is not PathFinder] + [Without]
import torch
torch.set_num_threads(1)
sys.path.insert(0, {tests!r})
from pathlib import Path
from triage.phantom import PhantomSpec
from triage.nn.pack import write_pack
from triage.nn.predict import judge
from triage.train.cache import Frame
from triage.train import lent
from triage.train.loop import FitOptions, fit
from triage.train.phantoms import PhantomData, write_phantoms
from train.small import small
folder = Path({folder!r})
data = PhantomData(range(40), Frame(64, 220.0), PhantomSpec(size_px=48, n_slices=6, p_bleed=0.95))
cache = write_phantoms(folder / "cache", data, 1)
run = fit(small("demo", epochs="1", draws="16"), cache, folder / "run", FitOptions())
print(run.facts["finished"])
"""


def test_phantoms_are_made_and_trained_on_with_torch_alone(tmp_path: Path) -> None:
    script = SCRIPT.format(blocked=BLOCKED, tests=str(Path(__file__).parents[1]), folder=str(tmp_path))
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=200, check=False)
    assert done.stdout.strip() == "True", done.stderr[-3000:]
