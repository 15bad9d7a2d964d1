"""One HTML page with everything in it: no other file, no script, no font; light and dark, phone and desktop."""

import base64
import html
import mimetypes
from collections.abc import Iterable, Sequence
from pathlib import Path

from tmt.data.labels import CITYSCAPES19
from tmt.report.formats import Table
from tmt.report.qualitative import Scene
from tmt.report.scores import arrow
from tmt.report.style import Chart

CSS = """
:root{color-scheme:light dark;--ink:#24292f;--soft:#57606a;--page:#fff;--card:#f6f8fa;--line:#d0d7de;--link:#0550ae;
--best:#dbeafe}
@media(prefers-color-scheme:dark){:root{--ink:#e6edf3;--soft:#9198a1;--page:#0d1117;--card:#161b22;--line:#3d444d;
--link:#79b8ff;--best:#1c3554}}
*{box-sizing:border-box}
body{margin:0;background:var(--page);color:var(--ink);font:16px/1.5 system-ui,-apple-system,"Segoe UI",sans-serif}
main,header,nav{max-width:1180px;margin:0 auto;padding:0 16px}
h1{font-size:1.7rem;line-height:1.2;margin:1.4rem 0 .4rem}
h2{font-size:1.3rem;margin:2.4rem 0 .6rem;padding-top:.6rem;border-top:1px solid var(--line)}
h3{font-size:1.02rem;margin:1.4rem 0 .5rem}
p,li{max-width:75ch}
a{color:var(--link)}
nav ul{display:flex;flex-wrap:wrap;gap:.2rem 1rem;padding:0;list-style:none;font-size:.92rem}
dl{display:grid;grid-template-columns:minmax(7rem,auto) 1fr;gap:.15rem 1rem;font-size:.92rem;margin:.6rem 0}
dt{color:var(--soft)}dd{margin:0;overflow-wrap:anywhere}
.table{margin:1rem 0}
.scroll{overflow-x:auto;border:1px solid var(--line);border-radius:8px}
.scroll:focus-visible{outline:2px solid var(--link)}
table{border-collapse:collapse;font-size:.85rem;font-variant-numeric:tabular-nums;width:100%}
caption{text-align:left;font-weight:600;padding:.45rem .6rem}
details caption{display:none}
th,td{padding:.28rem .6rem;text-align:right;white-space:nowrap;border-bottom:1px solid var(--line)}
thead th{background:var(--card);font-weight:600}
th:first-child{text-align:left;position:sticky;left:0;background:var(--card);font-weight:500}
td.best{background:var(--best);font-weight:600}
td.missing{color:var(--soft);font-style:italic}
.charts{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,340px),1fr));gap:1rem;align-items:start}
figure{margin:0}
.chart{background:var(--card);border:1px solid var(--line);border-radius:8px;padding:.6rem}
.chart img{display:block;width:100%;max-width:520px;height:auto;margin:0 auto}
figcaption{color:var(--soft);font-size:.8rem;line-height:1.4;margin-top:.4rem;overflow-wrap:anywhere}
.panels{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(46%,190px),1fr));gap:.6rem}
.panels.attention{grid-template-columns:repeat(3,1fr);max-width:660px}
.panels.attention figure:first-child{grid-column:1/-1;width:calc((100% - 1.2rem)/3)}
.panels img{display:block;width:100%;height:auto;border-radius:4px;background:#000}
.panels img.map{image-rendering:pixelated}
.panels figcaption{font-size:.76rem;margin-top:.15rem;line-height:1.3}
.legend{display:flex;flex-wrap:wrap;gap:.15rem .8rem;font-size:.8rem;padding:0;list-style:none;margin:.5rem 0}
.legend span{display:inline-block;width:.8em;height:.8em;margin-right:.35em;border-radius:2px}
details{border:1px solid var(--line);border-radius:8px;padding:0 .8rem;margin:1rem 0}
summary{cursor:pointer;padding:.5rem 0;font-weight:500}
.note{background:var(--card);border-left:4px solid var(--line);padding:.5rem .8rem;border-radius:4px;font-size:.92rem}
"""


def text(value: object) -> str:
    """A value as HTML text."""
    return html.escape(str(value))


def data_uri(content: bytes, kind: str) -> str:
    """A file's content as an address."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def chart(one: Chart) -> str:
    """A chart with its caption."""
    uri = data_uri(one.svg.encode(), "image/svg+xml")
    return (
        f'<figure class="chart"><img src="{uri}" alt="{text(one.alt)}">'
        f"<figcaption>{text(one.caption)}</figcaption></figure>"
    )


def charts(many: Iterable[Chart]) -> str:
    """Charts side by side where there is room."""
    return f'<div class="charts">\n{chr(10).join(map(chart, many))}\n</div>'


def tables(many: Sequence[Table], shown: int = 1) -> str:
    """Tables, all but the first `shown` folded up."""
    return "\n".join(one.to_html() if i < shown else folded(one.title, one.to_html()) for i, one in enumerate(many))


def folded(title: str, content: str) -> str:
    """Something that opens on demand."""
    return f"<details><summary>{text(title)}</summary>\n{content}\n</details>"


def scene(one: Scene, folder: Path) -> str:
    """A scene's panels from its pictures' folder."""
    panels = []
    for picture in one.pictures:
        path = folder / picture.file
        if path.is_file():
            kind = mimetypes.guess_type(picture.file)[0] or "image/png"
            style = ' class="map"' if kind == "image/png" else ""
            panels.append(
                f'<figure><img{style} src="{data_uri(path.read_bytes(), kind)}" alt="{text(picture.alt)}">'
                f"<figcaption>{text(picture.caption)}</figcaption></figure>"
            )
        else:
            panels.append(f"<p>{text(picture.caption)}: picture missing</p>")
    note = f"; {one.note}" if one.note else ""
    title = f"{arrow((one.source, one.target))}, seed {one.seed}, {one.image}{note}"
    return f'<h3>{text(title)}</h3>\n<div class="panels {one.group}">\n{chr(10).join(panels)}\n</div>'


def legend() -> str:
    """The classes' colours."""
    items = "".join(
        f'<li><span style="background:rgb({",".join(map(str, colour.tolist()))})"></span>{text(name)}</li>'
        for name, colour in zip(CITYSCAPES19.names, CITYSCAPES19.palette, strict=True)
    )
    return f'<ul class="legend" aria-label="colours of the classes">{items}</ul>'


def section(identity: str, title: str, *parts: str) -> tuple[str, str, str]:
    """A section's name, title and content."""
    return identity, title, "\n".join(part for part in parts if part)


def facts(values: dict[str, str]) -> str:
    """Names and values."""
    return "<dl>" + "".join(f"<dt>{text(name)}</dt><dd>{text(value)}</dd>" for name, value in values.items()) + "</dl>"


def page(title: str, head: str, sections: Sequence[tuple[str, str, str]]) -> str:
    """The whole page."""
    shown = [part for part in sections if part[2]]
    links = "".join(f'<li><a href="#{text(name)}">{text(heading)}</a></li>' for name, heading, _ in shown)
    body = "\n".join(
        f'<section id="{text(name)}">\n<h2>{text(heading)}</h2>\n{content}\n</section>'
        for name, heading, content in shown
    )
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>{text(title)}</title>\n'
        f'<meta name="viewport" content="width=device-width,initial-scale=1">\n<style>{CSS}</style>\n</head>\n<body>\n'
        f'<header>\n<h1>{text(title)}</h1>\n{head}\n</header>\n<nav aria-label="sections"><ul>{links}</ul></nav>\n'
        f"<main>\n{body}\n</main>\n</body>\n</html>\n"
    )
