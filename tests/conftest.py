"""What all tests share: the folder of real data, one thread, and a watch over the home folder."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder `shared` beside the checkout: data and recorded outputs, which are not in the repository."""
    folder = Path(__file__).resolve().parents[1] / "../shared"
    if not folder.is_dir():
        pytest.skip("the folder shared does not lie beside the checkout")
    return folder.resolve()


@pytest.fixture(scope="module")
def without_charts() -> Iterator[None]:
    """The runs of a module draw no charts, which take three times as long as two steps and all the rest."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("plot_labels", "plot_results", "write_metrics", "write_page"):
            patch.setattr(f"boxwright.training.report.{name}", lambda *_, **__: None)
        yield


@pytest.fixture(scope="session", autouse=True)
def _home_stays_empty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Nothing that the tests run may write into the home folder: they get an empty one, and leave it empty."""
    home = tmp_path_factory.mktemp("home")
    names = ("HOME", "USERPROFILE", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME")
    before = {name: os.environ.get(name) for name in names}
    for name in names:
        os.environ.pop(name, None)
    os.environ["HOME"] = os.environ["USERPROFILE"] = str(home)
    # torch keeps what it compiles for a GPU there
    os.environ.setdefault("PYTORCH_KERNEL_CACHE_PATH", str(tmp_path_factory.mktemp("kernels")))
    yield
    for name, value in before.items():
        os.environ.pop(name, None)
        if value is not None:
            os.environ[name] = value
    written = sorted(str(path.relative_to(home)) for path in home.rglob("*"))
    assert not written, f"the tests wrote into the home folder: {written[:5]}"
