"""Words of other tools are answered with what is meant here, in one sentence."""

import sys

import pytest

from boxwright.cli import main
from boxwright.cli.other_words import OPTIONS, VERBS, meant


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("train fcos --data x --epochs 50", "use schedule.epochs=50"),
        ("train fcos --data x --epochs=50", "use schedule.epochs=50"),
        ("train fcos --data x --batch 4", "use data.batch_size=4"),
        ("train fcos --batch-size 4", "use data.batch_size=4"),
        ("train fcos epochs=3 imgsz=640", "use schedule.epochs=3"),
        ("train --imgsz 640", "use data.resize.size=640"),
        ("train --lr 0.1", "use optim.lr=0.1"),
        ("train --model fcos", "boxwright train fcos"),
        ("predict m.pt x.jpg --conf 0.4", "use --score 0.4"),
        ("predict m.pt x.jpg --conf-thres 0.4", "use --score 0.4"),
        ("predict m.pt x.jpg --iou 0.4", "use --nms-iou 0.4"),
        ("predict --weights m.pt x.jpg", "boxwright predict m.pt"),
        ("predict m.pt --source x.jpg", "CHECKPOINT x.jpg"),
        ("predict m.pt x.jpg --save-txt", "use --format yolo"),
        ("evaluate --weights m.pt", "boxwright evaluate m.pt"),
        ("export m.pt --half", "--precision bf16"),
        ("val m.pt --data x", "use boxwright evaluate"),
        ("test m.pt", "use boxwright evaluate"),
        ("eval m.pt", "use boxwright evaluate"),
        ("detect m.pt x", "use boxwright predict"),
        ("finetune x", "use boxwright train"),
    ],
)
def test_what_is_meant_is_said(words, sentence, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["boxwright", *words.split()])
    with pytest.raises(SystemExit) as end:
        main.run()
    said = capsys.readouterr().err
    assert end.value.code == 2
    assert said.startswith("boxwright: ")
    assert sentence in said
    assert said.count("\n") == 1


@pytest.mark.parametrize(
    "words",
    ["train fcos schedule.epochs=3 data.batch_size=4 precision=fp16 --data x", "predict m.pt x --score 0.4 --batch 2",
     "evaluate m.pt --data x --split val2017 --iou 0.5", "--help", "--version", "", "train -- --epochs", "nothing"],
)  # fmt: skip
def test_our_own_words_are_left_alone(words):
    assert meant(words.split(), main._options()) is None


def test_what_is_advised_is_there():
    """Verbs exist, and options that are named are options of their verb."""
    known = main._options()
    assert set(VERBS.values()) <= set(known)
    for verb, table in OPTIONS.items():
        for said in table.values():
            named = {word.strip(",;:") for word in said.split() if word.startswith("--")}
            assert named <= known[verb] | known["evaluate"] | {"--nproc-per-node"}, (verb, said)


def test_no_word_of_others_hides_an_option_of_ours():
    known = main._options()
    for verb, table in OPTIONS.items():
        for word in " ".join(table).split():
            for option in (f"--{word}", f"-{word}"):
                if option in known[verb]:
                    assert meant([verb, option, "1"], known) is None
