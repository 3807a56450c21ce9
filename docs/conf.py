"""How the documentation is built: python -m sphinx -W docs docs/_build"""

from __future__ import annotations

from pathlib import Path

from pytest_gradhealth.results.environment import package_version
from pytest_gradhealth.rules import built_in_rules
from pytest_gradhealth.rules.page import HOME

HERE = Path(__file__).parent

project = "pytest-gradhealth"
author = "The pytest-gradhealth developers"
copyright = author  # noqa: A001
release = version = package_version()
extensions = ["myst_parser", "sphinx.ext.autodoc"]
exclude_patterns = ["_build", "changes", "pictures"]
html_theme = "furo"
html_title = "pytest-gradhealth"
html_baseurl = f"{HOME}/"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_theme_options = {"navigation_with_keys": True}
myst_heading_anchors = 3
myst_enable_extensions = ["deflist"]
# Words are code, not numbers to be made pretty: 1e-5, --gradhealth-json.
smartquotes = False
highlight_language = "text"
autodoc_typehints = "none"
default_role = "code"
autodoc_member_order = "bysource"


def rule_pages() -> dict[str, str]:
    """The page of each rule, and the list of all, by the names of their files."""
    rules = built_in_rules()
    rows = [f"| [{rule.code}]({rule.code}.md) | {rule.name} | {rule.summary} |" for rule in rules]
    listed = "\n".join(["| code | name | rule |", "| --- | --- | --- |", *rows])
    codes = "\n".join(rule.code for rule in rules)
    index = (
        "# Rules\n\n`pytest --gradhealth-explain GH101` prints the page of a rule in the terminal."
        f"\n\n{listed}\n\n```{{toctree}}\n:hidden:\n\n{codes}\n```\n"
    )
    return {f"{rule.code}.md": rule.page for rule in rules} | {"index.md": index}


def setup(_app: object) -> None:
    """Write the pages that are made of the rules, those that differ alone."""
    folder, pages = HERE / "rules", rule_pages()
    folder.mkdir(exist_ok=True)
    for old in {path.name for path in folder.glob("*.md")} - pages.keys():
        (folder / old).unlink()
    for name, text in pages.items():
        path = folder / name
        if not path.exists() or path.read_text("utf-8") != text:
            path.write_text(text, "utf-8")
