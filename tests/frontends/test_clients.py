"""Programs in C and C++ on MXNet's C API, unchanged, with engines."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mxnet as mx
import numpy as np
import pytest
from support.programs import MXNET, compiled
from support.programs import agree as _agree
from support.programs import runs as _runs
from support.programs import told as _told

from mxtrt.errors import NodeError
from mxtrt.frontends.environment import environment_for

HERE = Path(__file__).parent
WAYS = ["bind", "simple", "reshape", "cached"]


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the programs, compiled with this machine's compiler."""
    folder = tmp_path_factory.mktemp("programs")
    try:
        for name in ("predict.c", "mistakes.c", "bind.cc", "events.cc", "soak.cc"):
            compiled(HERE / name, folder)
    except FileNotFoundError as reason:
        pytest.skip(str(reason))
    return folder


@pytest.fixture
def run(programs: Path, launch: Callable[..., Any]) -> Callable[..., Any]:
    """Runs a program; the numbers that it writes, and its standard error."""

    def run_program(name: str, *arguments: object, **changes: Any) -> Any:
        return launch(programs / name, *arguments, **changes)

    return run_program


def _bind(way: str, model: Path, threads: int = 1) -> tuple[object, ...]:
    return "bind", way, f"{model}.json", f"{model}.params", "OUT", threads


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", ["model", "mixed"])
def test_bound_programs_agree_with_plain_mxnet(run, request, name, way):
    """In three threads: weights and batch sizes change, outputs are fetched before a forward."""
    path = request.getfixturevalue(name)
    # Plain MXNet crashes now and then where several threads bind; each has the same answers.
    plain, _ = run(*_bind(way, path), on=False)
    ours, told = run(*_bind(way, path, 3), MXTRT_BUILD="foreground")
    _agree(ours, np.tile(plain, 3))
    assert _runs(told) > 12


@pytest.mark.parametrize("way", ["bind", "cached"])
def test_thousands_of_calls_of_three_threads_agree(run, model, way):
    """Enough of them at once for a sanitizer to see what they share."""
    plain, _ = run(*_bind(way, model), on=False)
    ours, told = run(*_bind(way, model, 3), "time", MXTRT_BUILD="foreground")
    _agree(ours, np.tile(plain, 3))
    assert _runs(told) > 9000


@pytest.mark.parametrize(
    "way", ["simple-ex", "simple-first", "reshape-first", "cached-first", "cached-safe"]
)
def test_every_variant_of_the_calls_agrees_with_plain_mxnet(run, model, way):
    """Those of older programs, and of other languages."""
    plain, _ = run(*_bind(way, model), on=False)
    ours, told = run(*_bind(way, model), MXTRT_BUILD="foreground")
    _agree(ours, plain)
    assert _runs(told) > 4


@pytest.mark.parametrize("way", ["reshape", "cached"])
def test_engines_in_the_background_agree(run, mixed, way):
    """MXNet answers until they are there."""
    plain, _ = run(*_bind(way, mixed), on=False)
    ours, _ = run(*_bind(way, mixed), MXTRT_BUILD="background")
    _agree(ours, plain)


@pytest.mark.parametrize("way", ["plain", "typed", "partial", "threads"])
@pytest.mark.parametrize("name", ["model", "mixed"])
def test_predictors_agree_with_plain_mxnet(run, request, name, way):
    """Two batch sizes, the second by MXPredReshape."""
    model = request.getfixturevalue(name)
    if way == "partial":
        symbol = mx.sym.load(f"{model}.json")
        way = f"partial:{symbol.list_outputs()[0].removesuffix('_output')}"
    engine = "NaiveEngine" if way == "threads" else "ThreadedEnginePerDevice"
    arguments = "predict", f"{model}.json", f"{model}.params", "OUT", way, 1, 16, 0, 2, 5
    plain, _ = run(*arguments, on=False, MXNET_ENGINE_TYPE=engine)
    ours, told = run(*arguments, MXNET_ENGINE_TYPE=engine)
    _agree(ours, plain)
    assert _runs(told) >= 2


def test_predictors_take_what_mxnets_take_and_refuse_the_rest(programs, launch, model, tmp_path):
    """Parameters as inputs too; the words of a refused reshape are mxtrt's, but of the model."""
    told = []
    for on in (False, True):
        launch(programs / "mistakes", f"{model}.json", f"{model}.params", tmp_path / "told", on=on)
        told.append((tmp_path / "told").read_text().splitlines())
    for plain, ours in zip(*told, strict=True):
        if "reshape: -1" in plain:
            assert ours.startswith(plain.partition("-1")[0] + "-1")
            assert "_mxtrt" not in ours
            assert "shape" in ours.lower()
        elif plain.startswith("answer"):
            assert float(ours.split()[1]) == pytest.approx(float(plain.split()[1]), abs=2e-4)
        else:
            assert ours == plain


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"MXTRT_LIBPYTHON": None}, "MXTRT_LIBPYTHON"),
        ({"MXTRT_LIBPYTHON": "/nowhere/libpython.so"}, "there is no Python"),
        ({"MXTRT_PYTHON": "/usr/bin/python3-of-another-place"}, "plain MXNet"),
        ({"MXTRT_ENGINE": "nonsense"}, "plain MXNet"),
    ],
    ids=["no variable", "no Python", "no mxtrt", "wrong option"],
)
def test_without_engines_mxnet_answers_and_the_reason_is_told(run, model, changes, told):
    """The answers are MXNet's to the bit."""
    plain, _ = run(*_bind("bind", model), on=False)
    ours, said = run(*_bind("bind", model), **changes)
    np.testing.assert_array_equal(ours, plain)
    (line,) = [line for line in said.splitlines() if "plain MXNet" in line]
    assert told in line
    assert _runs(said) == 0


def test_what_no_program_needs_is_not_imported(run, model):
    """MXNet's package imports both where they are, which takes as long as the rest of it."""
    _, said = run(*_bind("bind", model), PYTHONPROFILEIMPORTTIME="1")
    assert "mxnet" in said
    assert not re.search(r"\| +(sklearn|scipy)\._", said)


def test_switched_off_nothing_is_started(run, model):
    """The library is in front of MXNet's, and passes all on."""
    plain, _ = run(*_bind("cached", model), on=False)
    ours, said = run(*_bind("cached", model), USE_TENSORRT=None)
    np.testing.assert_array_equal(ours, plain)
    assert _runs(said) == 0
    assert "mxtrt" not in said


def test_python_programs_take_the_library_for_mxnets():
    """So that processes of Python's that such a program starts have MXNet, too."""
    try:
        engines = {**os.environ, **environment_for()}
    except NodeError as reason:
        pytest.skip(str(reason))
    code = "import mxnet as mx; print(mx.nd.ones(2).sum().asscalar())"
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], env=engines, capture_output=True, text=True
    )
    assert done.stdout.strip() == "2.0", done.stderr


def test_the_library_of_a_python_that_was_moved_is_found(monkeypatch):
    """Its build names another folder."""
    expected = Path(environment_for()["MXTRT_LIBPYTHON"])
    original = sysconfig.get_config_var
    nowhere = {"LIBDIR": "/nowhere"}
    monkeypatch.setattr(sysconfig, "get_config_var", lambda n: nowhere.get(n) or original(n))
    monkeypatch.setattr(sys, "base_prefix", str(expected.parents[1]))
    assert Path(environment_for()["MXTRT_LIBPYTHON"]).samefile(expected)


def test_libraries_of_nvidias_packages_are_found(run, monkeypatch, tmp_path):
    """Those that the machine lacks: nothing loads them before MXNet in a program like these."""
    folders = [tmp_path / "nvidia" / name / "lib" for name in ("cudnn", "cublas")]
    own = tmp_path / "own"
    names = "libcudnn.so.8", "libcublas.so.11"
    for path in (*map(Path.joinpath, folders, names), own / "libcublas.so.11"):
        path.parent.mkdir(parents=True)
        path.touch()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("LD_LIBRARY_PATH", str(own))
    found = environment_for()["LD_LIBRARY_PATH"].split(":")
    assert found[1:] == [str(folders[0]), str(own)]


def test_another_mxnet_is_found_by_its_path(run, model, monkeypatch, tmp_path):
    """``--mxnet``: a copy of the library lies where it finds that one."""
    other = tmp_path / "elsewhere" / "lib"
    other.parent.mkdir()
    other.symlink_to(MXNET, target_is_directory=True)
    copied = tmp_path / "copy"
    copied.mkdir()
    shutil.copy2(MXNET / "libmxnet.so", copied / "libmxnet.so")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    assert environment_for(other) == environment_for()
    found = Path(environment_for(copied)["MXNET_LIBRARY_PATH"])
    assert (found.parents[2] / "mxnet" / "libmxnet.so").samefile(copied / "libmxnet.so")


def _events(what: str, model: Path) -> tuple[object, ...]:
    return "events", what, f"{model}.json", f"{model}.params", "OUT"


@pytest.mark.parametrize("name", ["model", "mixed"])
def test_a_forked_child_has_mxnets_answers_and_the_parent_its_engines(run, request, tmp_path, name):
    """The child has no thread of the interpreter; it binds, runs and ends as in plain MXNet."""
    given = _events("fork", request.getfixturevalue(name))
    plain, _ = run(*given, on=False)
    of_child = np.fromfile(tmp_path / "out.child", np.float32)
    ours, told = run(*given)
    _agree(ours, plain)
    _agree(np.fromfile(tmp_path / "out.child", np.float32), of_child)
    assert _told("child", told) == 3
    assert _told("more", told) >= 4


def test_signals_reach_the_handlers_of_the_program(run, model):
    """None is replaced, and none is lost."""
    plain, _ = run(*_events("signals", model), on=False)
    ours, told = run(*_events("signals", model))
    _agree(ours, plain)
    assert (_told("signals", told), _told("kept", told)) == (1, 1)
    assert _runs(told) > 4


def test_an_interrupt_still_ends_a_program_and_its_locale_is_its_own(run, model):
    """Python takes SIGINT and sets the locale as it starts."""
    run(*_events("state", model), on=False)
    _, told = run(*_events("state", model), LANG="C.UTF-8")
    assert (_told("default", told), _told("locale", told)) == (1, 1)
    assert _runs(told) == 4


@pytest.mark.parametrize("what", ["exit-thread", "exit-busy"])
def test_a_program_ends_from_any_thread(run, model, what):
    """At once, with the status that it gave."""
    plain, _ = run(*_events("exit-thread", model), on=False)  # in which one thread binds
    ours, _ = run(*_events(what, model))
    _agree(ours, plain)


@pytest.mark.parametrize("name", ["model", "mixed"])
def test_mxnet_answers_where_an_engine_is_retired(run, request, name):
    """This request and the next ones."""
    given = _events("retired", request.getfixturevalue(name))
    plain, _ = run(*given, on=False)
    ours, told = run(*given)
    _agree(ours, plain)
    assert _runs(told) >= 4


def test_engines_come_back_once_nobody_writes_to_a_weight(run, model):
    """While each forward has other weights MXNet answers most of them, unasked."""
    plain, _ = run(*_events("writes", model), on=False)
    ours, told = run(*_events("writes", model))
    _agree(ours, plain)
    assert _told("more", told) >= 1


def test_a_monitor_sees_mxnets_operators(run, model):
    """No engine runs from there on."""
    plain, _ = run(*_events("monitor", model), on=False)
    ours, told = run(*_events("monitor", model))
    _agree(ours, plain)
    assert (_told("operators", told), _told("more", told)) == (1, 0)
    assert _runs(told) >= 4


def test_a_hook_of_a_cached_op_sees_mxnets_operators(run, model):
    """The calls before it had engines, but for those with too few inputs: MXNet refuses them."""
    plain, _ = run(*_events("hook", model), on=False)
    ours, told = run(*_events("hook", model))
    _agree(ours, plain)
    assert _told("operators", told) == 1
    assert _runs(told) >= 6


def test_gradients_are_mxnets(run, model):
    """An executor that is bound for them has no engine."""
    plain, _ = run(*_events("backward", model), on=False)
    ours, told = run(*_events("backward", model))
    _agree(ours, plain)
    assert _runs(told) == 4


def test_running_means_are_followed_where_a_cached_op_is_trained(run, model):
    """MXNet counts no writes to them where memory is static."""
    plain, _ = run(*_events("training", model), on=False)
    ours, told = run(*_events("training", model), MXTRT_BUILD="foreground")
    _agree(ours, plain)
    assert _runs(told) >= 8


def test_a_symbol_that_was_optimized_is_bound_with_its_options(run, model):
    """MXNet itself refuses the backend; a wrong option is refused in mxtrt's words."""
    plain, refused = run(*_events("optimize", model), on=False)
    assert "TensorRT" in refused
    ours, told = run(*_events("optimize", model))
    assert "precision" in told
    assert "nonsense" in told
    assert _runs(told) == 4
    assert 0 < np.abs(ours - plain).max() < 1e-2 * np.abs(plain).max()  # fp16


def test_a_program_that_is_asked_for_a_while_answers_right(run, mixed, pytestconfig):
    """Binds, batch sizes and weights change in three threads; ``--soak-seconds 600`` for longer."""
    seconds = pytestconfig.getoption("--soak-seconds")
    given = "soak", f"{mixed}.json", f"{mixed}.params", seconds, 3
    _, told = run(*given)
    print(told)
    assert _told("wrong", told) == 0
    assert _runs(told) > 100
