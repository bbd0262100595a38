"""The command itself: its verbs, its help without torch, and mistakes as one sentence with exit code 2."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

import boxwright
from boxwright.cli import main


def command(*arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run `python -m boxwright` as a person would."""
    return subprocess.run(
        [sys.executable, "-m", "boxwright", *map(str, arguments)],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        timeout=600,
        check=False,
    )


def ended(arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """Exit code and standard error of the command, run in this process."""
    monkeypatch.setattr(sys, "argv", ["boxwright", *arguments])
    with pytest.raises(SystemExit) as caught:
        main.run()
    code = caught.value.code
    return (code if isinstance(code, int) else 0), capsys.readouterr().err


@pytest.mark.parametrize("verb", ["train", "evaluate", "predict", "explain", "inspect", "shapes", "recipes", "demo"])
def test_every_verb_is_listed_and_has_help(verb: str) -> None:
    runner = CliRunner()
    assert f" {verb} " in runner.invoke(main.app, ["--help"]).stdout
    result = runner.invoke(main.app, [verb, "--help"])
    assert result.exit_code == 0
    assert "Usage" in result.stdout


@pytest.mark.parametrize("verb", ["evaluate", "predict", "track", "serve", "export"])
def test_help_tells_what_may_stand_for_a_detector(verb: str) -> None:
    help_ = " ".join(CliRunner().invoke(main.app, [verb, "--help"]).stdout.split())
    assert "Run folder, checkpoint (also of another library)" in help_
    assert ("exported file, or a name of `boxwright zoo`" in help_) == (verb != "export")


def test_help_of_every_verb_takes_no_torch() -> None:
    code = (
        "import sys\nfrom typer.testing import CliRunner\nfrom boxwright.cli import main\n"
        "codes = [CliRunner().invoke(main.app, [verb, '--help']).exit_code for verb in main.VERBS]\n"
        "print(sum(codes), [name for name in ('torch', 'boxwright.structures', 'matplotlib') if name in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=600, check=True)
    assert found.stdout.strip() == "0 []"


def test_the_version_is_the_package_s() -> None:
    assert CliRunner().invoke(main.app, ["--version"]).stdout.strip() == f"boxwright {boxwright.__version__}"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["recipes", "fcoss"], "boxwright: no recipe 'fcoss'; did you mean fcos"),
        (["recipes", "nowhere.yaml"], "boxwright: recipe nowhere.yaml: no such file"),
        (["recipes", "fcos", "optim.lrr=1"], "boxwright: recipe fcos-small: optim.lrr: unknown key, did you mean lr?"),
        (["train", "fcos"], "boxwright: no data: give a folder of labelled images (--data FOLDER)"),
        (["train", "fcos", "--data", "nowhere"], "nowhere"),
        (["train", "fcos", "--data", "nowhere", "optim.lr"], "override 'optim.lr': expected key=value"),
        (["train", "--resume", "nowhere"], "nowhere: nothing to resume"),
        (["inspect", "nowhere"], "boxwright: nowhere: there is no such folder or file"),
        (["predict", "nowhere.pt", "image.jpg"], "boxwright: checkpoint nowhere.pt: no such file"),
    ],
)
def test_a_mistake_is_one_sentence_with_exit_code_2(
    arguments: list[str],
    sentence: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    code, said = ended(arguments, monkeypatch, capsys)
    assert code == 2
    assert sentence in said
    assert said.startswith("boxwright: ")
    assert said.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_real_process_shows_no_traceback_and_prints_nothing_else(tmp_path: Path) -> None:
    broken = tmp_path / "broken.yaml"
    broken.write_text("optim: [", encoding="utf-8")
    found = command("recipes", broken)
    assert (found.returncode, found.stdout) == (2, "")
    assert found.stderr.startswith(f"boxwright: recipe {broken}: not YAML")
    assert "Traceback" not in found.stderr


def test_the_traceback_is_there_for_who_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BOXWRIGHT_TRACEBACK", "1")
    monkeypatch.setattr(sys, "argv", ["boxwright", "recipes", "fcoss"])
    with pytest.raises(ValueError, match="no recipe 'fcoss'"):
        main.run()


@pytest.mark.parametrize(
    ("given", "filled"),
    [
        (["train", "--resume"], ["train", "--resume", "latest"]),
        (["train", "--resume", "--name", "a"], ["train", "--resume", "latest", "--name", "a"]),
        (["train", "--resume", "runs/a"], ["train", "--resume", "runs/a"]),
        (["train", "fcos"], ["train", "fcos"]),
    ],
)
def test_resume_without_a_value_means_the_newest_run(given: list[str], filled: list[str]) -> None:
    main._fill_in_resume(given)
    assert given == filled


def test_an_unknown_verb_is_refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    code, said = ended(["trian"], monkeypatch, capsys)
    assert code == 2
    assert "trian" in said
