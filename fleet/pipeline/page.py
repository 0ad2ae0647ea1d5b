"""One HTML page that needs nothing beside it: text is escaped, there is no script and no address."""

from __future__ import annotations

from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Final

_STYLE: Final = """
:root { color-scheme: light; --ink: #1f2933; --quiet: #616e7c; --line: #e4e7eb; --good: #2d6a4f;
  --bad: #9b2226; --open: #8a5a00; }
* { box-sizing: border-box; }
body { margin: 0; background: #fbfcfd; color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Helvetica, Arial, sans-serif; }
main { max-width: 60rem; margin: 0 auto; padding: 2.5rem 1.5rem 4rem; }
header { border-bottom: 1px solid var(--line); padding-bottom: 1.25rem; margin-bottom: 1.5rem; }
h1 { font-size: 1.7rem; font-weight: 600; margin: 0 0 .25rem; }
h2 { font-size: 1.1rem; font-weight: 600; margin: 2.25rem 0 .5rem; }
h3 { font-size: .95rem; font-weight: 600; margin: 1.25rem 0 .25rem; }
p { margin: .35rem 0; max-width: 46rem; }
.quiet { color: var(--quiet); }
.mark { display: inline-block; padding: .1rem .6rem; border-radius: 1rem; font-size: .85rem;
  font-weight: 600; border: 1px solid currentColor; }
.good { color: var(--good); } .bad { color: var(--bad); } .open { color: var(--open); }
table { border-collapse: collapse; margin: .5rem 0; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: .25rem 1.25rem .25rem 0; vertical-align: top;
  border-bottom: 1px solid var(--line); overflow-wrap: anywhere; }
th { font-weight: 600; font-size: .85rem; color: var(--quiet); }
td.number, th.number { text-align: right; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .2rem 1.25rem; margin: .5rem 0; }
dt { color: var(--quiet); } dd { margin: 0; overflow-wrap: anywhere; }
code { font: .88em ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; }
ul { margin: .35rem 0; padding-left: 1.2rem; }
figure { margin: .75rem 1.5rem .75rem 0; display: inline-block; vertical-align: top; }
figcaption { color: var(--quiet); font-size: .85rem; max-width: 30rem; }
svg { max-width: 100%; height: auto; }
details summary { cursor: pointer; color: var(--quiet); }
@media print { body { background: white; } main { padding: 0; } }
"""


@dataclass(slots=True)
class Page:
    """A page that is being written; whatever text comes in is shown as it is, never as markup."""

    title: str
    _parts: list[str] = field(default_factory=list)

    def header(self, title: str, mark: str, tone: str, lines: Iterable[str]) -> None:
        """Add what stands at the top; `tone` is `good`, `bad` or `open`."""
        told = "".join(f'<p class="quiet">{escape(line)}</p>' for line in lines)
        self._parts.append(
            f'<header><h1>{escape(title)} <span class="mark {tone}">{escape(mark)}</span></h1>'
            f"{told}</header>"
        )

    def section(self, title: str) -> None:
        """Begin a section."""
        self._parts.append(f"<h2>{escape(title)}</h2>")

    def heading(self, title: str) -> None:
        """Begin a part of a section."""
        self._parts.append(f"<h3>{escape(title)}</h3>")

    def text(self, text: str, tone: str = "") -> None:
        """Add a paragraph."""
        self._parts.append(f'<p class="{tone}">{escape(text)}</p>')

    def items(self, texts: Iterable[str]) -> None:
        """Add a list."""
        lines = "".join(f"<li>{escape(text)}</li>" for text in texts)
        self._parts.append(f"<ul>{lines}</ul>" if lines else "")

    def facts(self, facts: Iterable[tuple[str, object]]) -> None:
        """Add names with their values; those in backquotes are set as code."""
        lines = "".join(f"<dt>{escape(name)}</dt><dd>{_cell(value)}</dd>" for name, value in facts)
        self._parts.append(f"<dl>{lines}</dl>")

    def table(
        self, titles: Sequence[str], rows: Iterable[Sequence[object]], numbers: Container[int] = ()
    ) -> None:
        """Add a table; `numbers` are the columns that are set to the right."""

        def cells(kind: str, row: Sequence[object]) -> str:
            return "".join(
                f"<{kind}{' class=number' if place in numbers else ''}>{_cell(cell)}</{kind}>"
                for place, cell in enumerate(row)
            )

        body = "".join(f"<tr>{cells('td', row)}</tr>" for row in rows)
        self._parts.append(
            f"<table><thead><tr>{cells('th', titles)}</tr></thead><tbody>{body}</tbody></table>"
        )

    def picture(self, svg: str, caption: str = "") -> None:
        """Add a picture that `fleet.pipeline.charts` drew."""
        below = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
        self._parts.append(f"<figure>{svg}{below}</figure>")

    def folded(self, title: str, text: str) -> None:
        """Add a long text that is shown on demand."""
        self._parts.append(
            f"<details><summary>{escape(title)}</summary><pre><code>{escape(text)}</code></pre>"
            "</details>"
        )

    def html(self) -> str:
        """Return the page. Its policy forbids scripts and whatever is not in it."""
        policy = "default-src 'none'; style-src 'unsafe-inline'"
        return (
            '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
            f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
            '<meta name="viewport" content="width=device-width, initial-scale=1">'
            f"<title>{escape(self.title)}</title><style>{_STYLE}</style></head><body><main>\n"
            + "\n".join(self._parts)
            + "\n</main></body></html>\n"
        )


def _cell(value: object) -> str:
    text = "" if value is None else str(value)
    if len(text) > 2 and text[0] == text[-1] == "`":
        return f"<code>{escape(text[1:-1])}</code>"
    return escape(text)
