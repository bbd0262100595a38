"""The config in a checkpoint of MMDetection is read as literals: nothing in it runs."""

import pytest

from boxwright.convert.mmdetection_config import class_names, kind_of, read_config

TEXT = """
_base_ = ['a.py']
model = dict(
    type='mmdet.models.FCOS',
    scales=(1333, -800), weights={'a b': 1.5, **more}, made=dict({'x-y': True}, z=None),
    run=__import__('os').system('touch PWNED'))
lr = 0.1 * 3
import os
os.remove('x')
"""


def test_literals_are_taken_and_everything_else_is_left_out(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = read_config({"cfg": TEXT})
    assert found == {
        "_base_": ["a.py"],
        "model": {
            "type": "mmdet.models.FCOS", "scales": (1333, -800), "weights": {"a b": 1.5},
            "made": {"x-y": True, "z": None},
        },
    }  # fmt: skip
    assert kind_of(found["model"]) == "FCOS"
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "meta",
    [None, 3, {}, {"cfg": 7}, {"cfg": "model = dict("}, {"cfg": "a = " + "[" * 5000}, {"cfg": "a = \0"},
     {"cfg": "x = 1\n" * 200_000}],
)  # fmt: skip
def test_a_text_that_is_no_config_says_nothing(meta):
    assert read_config(meta) == {}


def test_the_older_name_of_the_text_and_of_the_classes_is_known():
    assert read_config({"config": "a = 1"}) == {"a": 1}
    assert class_names({"CLASSES": ("cat", "dog")}) == ("cat", "dog")
    assert class_names({"CLASSES": "cat"}) == ("cat",)
    assert class_names({"dataset_meta": {"classes": ["a", "b"]}, "CLASSES": ("c",)}) == ("a", "b")
    assert class_names({"CLASSES": [1, 2]}) is class_names({}) is class_names(None) is None
