"""What films are searched by."""

import importlib.util
from pathlib import Path

import pytest

from framehaul_pipeline.errors import InvalidInput
from framehaul_pipeline.models.embedding import clip_model, packaged_model


def test_the_packages_weights_are_found_without_its_code() -> None:
    assert Path(packaged_model().path).is_file()


def test_a_package_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InvalidInput, match=r"framehaul\[highlight\]"):
        packaged_model()


def test_a_model_without_the_package_for_texts_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InvalidInput, match=r"framehaul\[highlight-model\]"):
        clip_model(tmp_path)
