from fractions import Fraction

import pytest

from framehaul.address import Address
from framehaul_client.command.arguments import COMMANDS, Options, parse
from framehaul_client.command.exits import AGAIN, MEANINGS


def stream(*arguments: str) -> Options:
    return parse(["stream", *arguments])


def test_the_least_that_must_be_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """An output; all else has a default."""
    monkeypatch.delenv("FRAMEHAUL_TARGET", raising=False)
    assert stream("--out", "v.mp4") == Options(command="stream", out="v.mp4")


def test_every_option_has_its_place() -> None:
    """Nothing that was asked for is dropped."""
    options = stream(
        *("a.safetensors", "--out", "-", "--target", "h:1", "--connect-timeout", "2.5", "--model", "m"),
        *("--format", "rgb24", "--fps", "24000/1001", "--normalized", "--priority", "-7", "--tensor", "z"),
        *("--codec", "libx265", "--crf", "20", "--preset", "slow", "--pix-fmt", "yuv444p", "--live", "--reproducible"),
        *("--container", "mkv", "--encoder-option", "g=48", "--encoder-option", "x265-params=a=1:b=2"),
    )
    assert options == Options(
        command="stream",
        latents="a.safetensors",
        tensor="z",
        out="-",
        target="h:1",
        connect_timeout=2.5,
        model="m",
        normalized=True,
        format="rgb24",
        fps=Fraction(24000, 1001),
        reproducible=True,
        priority=-7,
        codec="libx265",
        crf=20,
        preset="slow",
        pix_fmt="yuv444p",
        live=True,
        container="mkv",
        encoder_option=[("g", "48"), ("x265-params", "a=1:b=2")],
    )


def test_a_probe_has_options_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Servers without a flag, the clip with one; what it shares with `stream` is the same."""
    monkeypatch.setenv("FRAMEHAUL_TARGET", "gpu7:1")
    assert parse(["probe"]) == Options(command="probe", target="gpu7:1")
    options = parse(
        [
            *("probe", "a:1", "b:2", "--every", "30", "--count", "4", "--timeout", "9", "--latents", "a.safetensors"),
            *("--num-latents", "3", "--metrics", "[::1]:0", "--metrics-insecure", "--model", "m", "--priority", "-7"),
            *("--no-normalized", "--tensor", "z", "--layout", "cthw", "--connect-timeout", "2.5", "--json"),
        ]
    )
    assert options == Options(
        command="probe",
        targets=["a:1", "b:2"],
        target="gpu7:1",
        every=30.0,
        count=4,
        timeout=9.0,
        latents="a.safetensors",
        num_latents=3,
        metrics=Address(host="::1", port=0),
        metrics_insecure=True,
        model="m",
        priority=-7,
        normalized=False,
        tensor="z",
        layout="CTHW",
        connect_timeout=2.5,
        json=True,
    )


def test_a_leading_tilde_is_home_in_every_file_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shells leave it alone after `--option=`."""
    monkeypatch.setenv("HOME", "/home/me")
    names = ("--out", "--ca", "--cert", "--key", "--token-file")
    options = stream("~/a.safetensors", *(f"{name}=~/x" for name in names))
    found = (options.latents, options.out, options.ca, options.cert, options.key, options.token_file)
    assert found == ("/home/me/a.safetensors", *["/home/me/x"] * 5)
    assert stream("--out", "a/~/v.mp4").out == "a/~/v.mp4"


def test_stdout_has_two_names() -> None:
    """Its report goes to stderr under both."""
    assert stream("--out", "/dev/stdout").out == "-"


def test_the_environment_names_the_target_unless_an_option_does(monkeypatch: pytest.MonkeyPatch) -> None:
    """Option, then environment, then default."""
    monkeypatch.setenv("FRAMEHAUL_TARGET", "gpu7:1")
    assert stream("--out", "v.mp4").target == "gpu7:1"
    assert stream("--out", "v.mp4", "--target", "h:2").target == "h:2"
    monkeypatch.setenv("FRAMEHAUL_TARGET", "")
    assert stream("--out", "v.mp4").target == "127.0.0.1:50051"


def test_normalized_may_be_denied() -> None:
    """Against what the file says."""
    assert stream("--out", "v.mp4").normalized is None
    assert stream("--out", "v.mp4", "--no-normalized").normalized is False


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["stream"], "--out"),
        (["stream", "--out", "v.mp4", "--fps", "fast"], "fps=fast: must be a number"),
        (["stream", "--out", "v.mp4", "--encoder-option", "g"], "g: must be NAME=VALUE"),
        (["stream", "--out", "v.mp4", "--container", "avi"], "invalid choice: 'avi'"),
        (["info", "--target", "gpu7"], "argument --target: target=gpu7: must be HOST:PORT"),
        (["stream", "--out", "v.mp4", "--priority", "200"], "priority=200: must be -100..100"),
        (["stream", "--out", "v.mp4", "--priority", "high"], "'high': must be a whole number"),
        (["stream", "--out", "v.mp4", "--retry-for", "long"], "'long': must be a number"),
        (["stream", "--out", "v.mp4", "--connect-timeout", "0"], "0: must be over 0 and up to 3600 seconds"),
        (["stream", "--out", "v.mp4", "--connect-timeout", "nan"], "nan: must be over 0"),
        (["stream", "--out", "v.mp4", "--format", "bgr"], "invalid choice: 'bgr'"),
        (["stream", "a", "b", "--out", "v.mp4"], "unrecognized arguments: b"),
        (["probe", "gpu7"], "target=gpu7: must be HOST:PORT"),
        (["probe", "--target", "gpu7:1"], "unrecognized arguments: --target"),
        (["probe", "--count", "0"], "0: must be a whole number from 1"),
        (["probe", "--num-latents", "1.5"], "1.5: must be a whole number from 1"),
        (["probe", "--every", "0"], "0: must be over 0 and up to 3600 seconds"),
        *(
            (["probe", "--metrics", text], f"{text!r}: must be HOST:PORT")
            for text in (":1", "h", "h:x", "a@h:1", "h:1/")
        ),
        (["nosuch"], "invalid choice: 'nosuch'"),
        ([], "COMMAND"),
    ],
)
def test_wrong_options_exit_with_2(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    """One line that names the option and what is allowed."""
    with pytest.raises(SystemExit) as caught:
        parse(arguments)
    assert caught.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("command", [[], *([name] for name in COMMANDS)])
def test_help_lists_the_exit_codes(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Scripts find them where users look first."""
    with pytest.raises(SystemExit):
        parse([*command, "--help"])
    text = capsys.readouterr().out
    for code, meaning in MEANINGS.items():
        assert f"{code.value:<4}{'*' if code in AGAIN else ' '} {meaning}" in text


def test_a_size_is_width_and_height() -> None:
    """In pixels, both there and over 0."""
    assert parse(["models"]).size is None
    assert parse(["models", "--size", "832x480"]).size == (832, 480)
    for text in ("832", "832x", "0x480", "832x-480", "832x480x3", "8²x8", "1048576x8"):
        with pytest.raises(SystemExit):
            parse(["models", "--size", text])


@pytest.mark.parametrize(("text", "frames"), [("0", (0, 0)), ("7-7", (7, 7)), ("80-159", (80, 159)), ("007", (7, 7))])
def test_a_part_of_a_clip_is_a_range_as_farms_write_it(text: str, frames: tuple[int, int]) -> None:
    """Both ends included; or one frame."""
    assert stream("--out", "x", "--frames", text).frames == frames


@pytest.mark.parametrize("text", ["", "-", "1-", "-1", "2-1", "1-2-3", "1,2", "1-9:2", "\u0663", "9" * 13])
def test_other_ranges_are_refused(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    """With the form that is allowed; steps and lists are the farm's to cut."""
    with pytest.raises(SystemExit):
        stream("--out", "x", f"--frames={text}")
    assert f"argument --frames: {text}: must be A-B" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["0", "-4", "nan", "inf", "1e7"])
def test_a_price_is_a_number(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Above nothing."""
    with pytest.raises(SystemExit):
        parse(["models", f"--price={text}"])
    assert f"argument --price: {text}: must be over 0" in capsys.readouterr().err


def test_progress_as_json_makes_every_line_json() -> None:
    """The report too, and what went wrong."""
    assert stream("--out", "x", "--progress", "json").json
    assert not stream("--out", "x", "--progress", "openjd").json
