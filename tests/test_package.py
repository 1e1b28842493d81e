"""What `pip install .` brings: few packages, the command, the schema inside the wheel."""

from __future__ import annotations

import importlib.metadata
import pathlib
import re
import tomllib

import pytest

import routerd

REPO = pathlib.Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((REPO / "pyproject.toml").read_text())
MOST_PACKAGES = 25


def brought_by(requirements: list[str], found: set[str]) -> set[str]:
    """Return these packages and all that they need, by what is installed here; markers of extras and other systems left out."""
    for requirement in requirements:
        name, _, marker = requirement.partition(";")
        plain = re.split(r"[\s<>=!~\[(]", name.strip())[0].lower().replace("_", "-")
        if plain in found or "extra" in marker or "python_version <" in marker or "python_full_version <" in marker:
            continue
        try:
            needs = importlib.metadata.requires(plain) or []
        except importlib.metadata.PackageNotFoundError:
            continue  # for another system or Python
        found.add(plain)
        brought_by(needs, found)
    return found


def test_installing_brings_at_most_25_packages() -> None:
    found = brought_by(PROJECT["project"]["dependencies"], set())
    assert {"aiohttp", "uvloop", "msgspec"} <= found
    assert len(found | {"routerd"}) <= MOST_PACKAGES, sorted(found)


def test_the_wheel_holds_the_published_schema() -> None:
    included = PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["force-include"]
    assert included == {"schema/routes.schema.json": "routerd/config/routes.schema.json"}
    assert (REPO / "schema" / "routes.schema.json").exists()


def test_the_command_is_an_entry_point_that_exists() -> None:
    module, _, name = PROJECT["project"]["scripts"]["routerd"].partition(":")
    assert callable(getattr(__import__(module, fromlist=[name]), name))


def test_the_changelog_has_the_version() -> None:
    assert f"## {routerd.__version__}" in (REPO / "CHANGELOG.md").read_text()


def test_the_installed_version_is_this_one() -> None:
    try:
        installed = importlib.metadata.version("routerd")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("routerd is not installed in this environment: pip install -e '.[test]'")
    assert installed == routerd.__version__
