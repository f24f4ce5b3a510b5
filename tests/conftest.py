"""Fixtures shared by all tests, and the settings that keep the package a single module object under pytest."""

from __future__ import annotations

import os
import platform
import secrets
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


class _RootIsNotATestPackage:
    """The root holds the package's __init__.py; pytest would import it once more, under the checkout's folder name.

    A plugin object and not a hook in this file, because hooks in a conftest.py only see paths below it.
    """

    @pytest.hookimpl(tryfirst=True)
    def pytest_collect_directory(self, path: Path, parent: pytest.Collector) -> pytest.Collector | None:
        return pytest.Dir.from_parent(parent, path=path) if path == ROOT else None


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="rewrite the files in tests/golden/")
    parser.addoption("--seed", type=int, default=None, help="seed of the `seed` fixture (default: a new one per test)")
    parser.addoption("--fuzz-seeds", type=int, default=200, help="how many networks the slow fuzz test makes")


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(_RootIsNotATestPackage(), "root-is-not-a-test-package")
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # shells start background jobs so, and children inherit it
        signal.signal(signal.SIGINT, signal.default_int_handler)


def cpu_features() -> frozenset[str]:
    """Feature names of this CPU as Linux lists them (``avx2``, ``avx512f``, ``fma``, ``asimd``)."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return frozenset()
    for line in text.splitlines():
        key, _, value = line.partition(":")
        if key.strip() in ("flags", "Features"):
            return frozenset(value.split())
    return frozenset()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """``@pytest.mark.isa("avx2", "fma")`` skips where the CPU lacks one; ``isa("aarch64")`` names an architecture."""
    have: frozenset[str] | None = None
    for item in items:
        for mark in item.iter_markers("isa"):
            have = have if have is not None else cpu_features() | {platform.machine()}
            missing = [f for f in mark.args if f not in have]
            if missing:
                item.add_marker(pytest.mark.skip(reason=f"this CPU lacks {', '.join(missing)}"))


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Folder of the real data sets and weights (environment variable INGOT_DATA); skips where there is none."""
    value = os.environ.get("INGOT_DATA")
    if not value:
        pytest.skip("INGOT_DATA is not set: the real data sets and weights are not on this machine")
    path = Path(value)
    if not path.is_dir():
        pytest.fail(f"INGOT_DATA={value} is not a folder")
    return path


@pytest.fixture
def seed(request: pytest.FixtureRequest) -> Iterator[int]:
    """A fresh seed per test, printed (pytest shows it when the test fails); ``--seed N`` repeats a run."""
    given = request.config.getoption("--seed")
    value = secrets.randbelow(2**31) if given is None else given
    print(f"seed {value} (repeat with --seed {value})")
    yield value


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Callable[[str, str], None]:
    """``golden(name, text)`` compares with tests/golden/<name>; ``pytest --update-golden`` writes it instead."""

    def check(name: str, text: str) -> None:
        path = ROOT / "tests" / "golden" / name
        if request.config.getoption("--update-golden"):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
            return
        if not path.exists():
            pytest.fail(f"no golden file {path.relative_to(ROOT)}; write it with --update-golden")
        assert text == path.read_text(encoding="utf-8"), f"differs from {name}; --update-golden if that is right"

    return check
