"""Which kinds of decoders a server finds beside its own, and what it says of those that it can't take."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from framehaul_pipeline.errors import InvalidInput
from framehaul_pipeline.models.model import BUILT_IN, describe_model
from framehaul_pipeline.models.plugins import find_kinds

HEAD = "import msgspec\nfrom framehaul_pipeline.models.model import TINY_SPEC, DecoderKind\n"
GREY = HEAD + "SPEC = msgspec.structs.replace(TINY_SPEC, name='grey')\n"


@pytest.fixture(autouse=True)
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of installed packages."""
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def module(site: Path, name: str, text: str) -> str:
    sys.modules.pop(name, None)
    (site / f"{name}.py").write_text(text)
    return name


def install(site: Path, name: str, text: str) -> None:
    """The same, with an entry point."""
    module(site, name, text)
    information = site / f"{name}-1.dist-info"
    information.mkdir()
    (information / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1\n")
    (information / "entry_points.txt").write_text(f"[framehaul.decoders]\n{name} = {name}:DECODER\n")


def test_there_are_none_by_default() -> None:
    assert find_kinds() == BUILT_IN


def test_an_installed_package_and_a_module_give_the_same(site: Path) -> None:
    """And one that is both counts once. Its models have bare names, or are told by the class in config.json."""
    text = GREY + (
        "DECODER = DecoderKind(kind='grey', loader='grey:load', models=(SPEC,), class_names=('Grey',),\n"
        "    spec=lambda name, config: msgspec.structs.replace(SPEC, name=name, channels=config['channels']))\n"
    )
    by_module = find_kinds([module(site, "grey_decoder", text)])[-1]
    install(site, "grey_decoder", text)
    kinds = find_kinds()
    assert (kinds[:-1], kinds[-1].kind, kinds[-1].loader) == (BUILT_IN, by_module.kind, by_module.loader)
    assert find_kinds(["grey_decoder"]) == kinds

    model = describe_model("grey", kinds)
    assert (model.kind, model.loader, model.spec.name, model.path, model.config) == (
        "grey",
        "grey:load",
        "grey",
        None,
        {},
    )
    config = {"_class_name": "Grey", "channels": 3}
    (site / "weights").mkdir()
    (site / "weights" / "config.json").write_text(json.dumps(config))
    save_file({"x": np.zeros(1, np.float32)}, site / "weights" / "diffusion_pytorch_model.safetensors")
    model = describe_model(f"w={site / 'weights'}", kinds)
    assert (model.kind, model.spec.channels, model.path, model.config) == ("grey", 3, str(site / "weights"), config)
    with pytest.raises(InvalidInput, match="must be tiny, grey, or NAME=PATH"):
        describe_model("gray", kinds)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "import no_such_thing",
            "=ModuleNotFoundError: No module named 'no_such_thing': must be importable, and name a D",
        ),
        ("raise RuntimeError('told to')", "=RuntimeError: told to: must be importable"),
        ("x = 1", "=AttributeError: .*must be importable, and name a DecoderKind"),
        ("DECODER = 'wan'", "=str: must be a DecoderKind"),
        (
            HEAD + "DECODER = DecoderKind(kind='x', loader='x')",
            "InvalidInput: decoder x loader=x: must be MODULE:FUNCTION",
        ),
        (HEAD + "DECODER = DecoderKind(kind='x', loader='x:y', class_names=('X',))", "decoder x spec=None: must be"),
        (
            HEAD + "DECODER = DecoderKind(kind='wan', loader='x:y')",
            "kind=wan: must be another one than decoder 'wan' has",
        ),
        (
            HEAD + "DECODER = DecoderKind(kind='x', loader='x:y', models=(TINY_SPEC,))",
            "model=tiny: must be another one",
        ),
        (
            HEAD + "DECODER = DecoderKind(kind='x', loader='x:y', class_names=('AutoencoderKL',), spec=print)",
            "class=AutoencoderKL: must be another one than decoder 'autoencoder-kl' has",
        ),
    ],
)
@pytest.mark.parametrize("installed", [False, True])
def test_one_that_cannot_be_taken_is_named(site: Path, text: str, said: str, *, installed: bool) -> None:
    (install if installed else module)(site, "bad_decoder", text)
    with pytest.raises(InvalidInput, match=f"^plugin bad_decoder:DECODER.*{said}"):
        find_kinds([] if installed else ["bad_decoder"])


def test_a_module_that_is_not_there_is_named() -> None:
    with pytest.raises(InvalidInput, match="plugin nowhere:DECODER=ModuleNotFoundError: No module named 'nowhere'"):
        find_kinds(["nowhere"])


def test_two_plugins_with_one_kind_are_refused(site: Path) -> None:
    for name in ("one", "other"):
        module(site, name, HEAD + f"DECODER = DecoderKind(kind='x', loader='{name}:load')")
    with pytest.raises(InvalidInput, match="plugin other:DECODER kind=x: must be another one than decoder 'x' has"):
        find_kinds(["one", "other"])


def test_torch_is_for_the_worker(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server with a plugin that imports it ends, rather than one day hold a CUDA context."""
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    text = HEAD + "import sys; sys.modules['torch'] = sys\nDECODER = DecoderKind(kind='x', loader='x:y')"
    with pytest.raises(InvalidInput, match="plugin greedy:DECODER=it imports torch: must be without"):
        find_kinds([module(site, "greedy", text)])
