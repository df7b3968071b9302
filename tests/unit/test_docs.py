"""The documents say what the code does, where a program can tell."""

import json
import re
import subprocess
from pathlib import Path

import attrs
import pytest

from jobs_cli.app import make_app, verb_names
from jobs_plugins.policy import Policy
from jobs_plugins.rules import RULES
from jobs_proto.audit import Chain
from jobs_proto.job import Limits
from jobs_proto.methods import METHODS
from jobs_proto.phases import diagram
from jobs_supervisor.config import (
    AuditSettings,
    JobSettings,
    PluginSettings,
    QuotaSettings,
    RetentionSettings,
    ServerSettings,
    Settings,
)

ROOT = Path(__file__).parents[2]
FOLDERS = ("certs", "cli", "contrib", "plugins", "proto", "shim", "supervisor", "tests")
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(p for f in FOLDERS for p in (ROOT / f).rglob("*.md"))])
SECTIONS = {
    "": Settings,
    "server": ServerSettings,
    "jobs": JobSettings,
    "retention": RetentionSettings,
    "audit": AuditSettings,
    "quotas": QuotaSettings,
    "plugins": PluginSettings,
    "policy": Policy,
}


def section_of(text, heading):
    """The part of a document from a heading to the next one of any level."""
    return re.split(r"^#+ ", text.split(f"\n## {heading}\n")[1], flags=re.MULTILINE)[0]


def prose(text):
    """A document without what stands in its code blocks."""
    return re.sub(r"^ *```.*?^ *```$", "", text, flags=re.MULTILINE | re.DOTALL)


def anchors(path):
    """The anchors that GitHub makes of a document's headings."""
    titles = re.findall(r"^#+ (.+)$", prose(path.read_text()), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def documented_settings():
    """The rows of supervisor/README.md's tables of settings: (section, name) → default."""
    text = section_of((ROOT / "supervisor/README.md").read_text(), "Settings")
    found, section = {}, ""
    for line in text.splitlines():
        if heading := re.match(r"`\[(\w+)\]`", line):
            section = heading[1]
        elif row := re.match(r"\| `(\w+)` \| `(.+?)` \|", line):
            found[section, row[1]] = row[2]
    return found


def in_toml(value):
    """A default as one would write it in TOML."""
    if isinstance(value, attrs.Factory):
        made = value.factory()
        if not attrs.has(type(made)):
            return str(made)
        told = attrs.asdict(made, filter=lambda field, each: each != field.default)
        inner = ", ".join(f"{name} = {in_toml(each)}" for name, each in told.items())
        return f"{{{inner}}}"
    if isinstance(value, tuple):
        return str(list(value))
    if value is None:
        return "none"
    return f'"{value}"' if isinstance(value, str | Path) else str(value)


def test_the_architecture_holds_the_diagram_of_the_phases_verbatim():
    assert f"```mermaid\n{diagram()}\n```" in (ROOT / "ARCHITECTURE.md").read_text()


def test_every_setting_is_documented_with_its_default_and_no_other():
    settings = {
        (section, field.name): in_toml(field.default)
        for section, cls in SECTIONS.items()
        for field in attrs.fields(cls)
        if not attrs.has(type(field.default))
    }
    assert documented_settings() == settings


def test_the_sections_are_all_there_are():
    nested = {field.name for field in attrs.fields(Settings) if attrs.has(type(field.default))}
    assert nested == SECTIONS.keys() - {""}


def test_every_limit_is_documented_and_no_other():
    text = section_of((ROOT / "supervisor/README.md").read_text(), "Limits")
    keys = [line.split("|")[1] for line in text.splitlines() if line.startswith("| `")]
    told = [name for key in keys for name in re.findall(r"`(\w+)`", key)]
    assert told == [field.name for field in attrs.fields(Limits)]


def test_the_guide_for_plugins_has_the_rules_of_the_built_in_roles():
    text = section_of((ROOT / "plugins/README.md").read_text(), "What is built in")
    rows = [line.split("|")[1:-1] for line in text.splitlines() if line.startswith("| `")]
    told = [
        (role.strip(" `"), action, whose)
        for role, *cells in rows
        for whose, cell in zip(("own", "any"), cells, strict=True)
        for action in cell.strip("` ").split()
    ]
    assert sorted(told) == sorted(RULES)


def test_every_method_is_documented_and_no_other():
    text = section_of((ROOT / "proto/README.md").read_text(), "Methods")
    keys = [line.split("|")[1] for line in text.splitlines() if line.startswith("| `")]
    assert sorted(name for key in keys for name in re.findall(r"`(\w+)`", key)) == sorted(METHODS)


def test_every_verb_is_in_the_readme_and_every_verb_there_exists():
    text = section_of((ROOT / "README.md").read_text(), "The verbs")
    rows = [line.split("|")[1] for line in text.splitlines() if line.startswith("| `")]
    told = [name for row in rows for name in re.findall(r"`([\w-]+)`", row)]
    assert sorted(told) == sorted(verb_names(make_app("jobsctl")))


def test_every_verb_that_is_typed_in_a_document_exists():
    verbs = set(verb_names(make_app("jobsctl"))) | {"VERB", "owners"}  # of jobs-cli-owners
    for path in DOCUMENTS:
        typed = re.findall(r"^(?:\$ |    )?jobsctl ([a-z][\w-]*)", path.read_text(), re.MULTILINE)
        assert set(typed) <= verbs, path


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_relative_link_leads_somewhere(path):
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(path.read_text())):
        if re.match(r"[a-z]+:", target):
            continue
        file, _, anchor = target.partition("#")
        there = path if not file else path.parent / file
        assert there.exists(), f"{path.name} links to {target}"
        if anchor:
            assert anchor in anchors(there), f"{path.name} links to {target}"


@pytest.mark.parametrize("folder", FOLDERS)
def test_every_folder_has_a_readme(folder):
    assert (ROOT / folder / "README.md").exists()


def test_no_folder_is_forgotten():
    sources = {path.parent.parent.name for path in ROOT.glob("*/jobs_*/__init__.py")}
    assert sources <= set(FOLDERS)
    readme = (ROOT / "README.md").read_text()
    assert all(f"]({folder}/README.md)" in readme for folder in FOLDERS)


def test_the_lines_of_the_audit_log_in_the_readme_are_a_log():
    """Real ones: each has the hash of the one before it."""
    text = section_of((ROOT / "supervisor/README.md").read_text(), "The audit log")
    lines = re.findall(r'^\{"seq".*\n', text, re.MULTILINE)
    chain = Chain()
    chain.begin("README.md")
    for line in lines:
        chain.take(line.encode())
    chain.finish(whole=True)
    assert [json.loads(line)["event"] for line in lines] == ["opened", "connection", "decision"]


def test_make_reads_the_makefile():
    told = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (told.returncode, told.stderr) == (0, "")


def test_the_makefile_explains_every_target():
    makefile = (ROOT / "Makefile").read_text()
    phony = set(re.search(r"^\.PHONY: (.+)$", makefile, re.MULTILINE)[1].split())
    told = set(re.findall(r"^\t@echo 'make ([\w-]+) ", makefile, re.MULTILINE))
    assert told == phony - {"help"}
