"""How the page looks: one column of text, drawings that stretch, light and dark, screen and paper.

The palette is Okabe and Ito's (Color Universal Design, 2008), darkened or lightened until it stands out from the
background by 4.5 to 1; forms, dashes, hatching and numbers say what colors say.
"""

from __future__ import annotations

from clio_cc.report.markup import Markup

CSS = Markup("""
:root{color-scheme:light dark;--page:#fff;--text:#1c1f24;--soft:#565c66;--rule:#d5d9df;--field:#f3f5f7;--link:#0060a0;
--c0:#0072b2;--c1:#b84900;--c2:#007a58;--c3:#a8427f;--c4:#776000;--c5:#5746b8;--c6:#a11d33;--c7:#555b63;
--on:#fff;--bytes:#4f86a8;--macs:#b9cfdd;--warn:#fff4dc;--edge:#b07400}
@media screen and (prefers-color-scheme:dark){:root{--page:#14171b;--text:#e8eaed;--soft:#a7aeb8;--rule:#3a4049;
--field:#1e2329;--link:#7cc0f5;--c0:#56b4e9;--c1:#f28b45;--c2:#34c89c;--c3:#e79ac6;--c4:#e2c33a;--c5:#b0a4f7;
--c6:#f28c98;--c7:#b8bec6;--on:#14171b;--bytes:#5f9cc0;--macs:#34495a;--warn:#33290f;--edge:#d9a12b}}
*{box-sizing:border-box}
body{margin:0 auto;padding:16px;max-width:66rem;font:16px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif;
background:var(--page);color:var(--text);overflow-wrap:anywhere}
h1{font-size:1.6rem;line-height:1.2;margin:.4em 0}
h2{font-size:1.25rem;margin:2em 0 .4em;border-top:1px solid var(--rule);padding-top:.8em}
h3{font-size:1.05rem;margin:1.4em 0 .4em}
p{max-width:46rem;margin:.6em 0}
a{color:var(--link)}
small,.tick,.label,footer{color:var(--soft)}
code{font-size:.8em}
.warning{background:var(--warn);border-left:4px solid var(--edge);padding:.5em .9em}
.warning h2{border:0;margin:0;padding:0;font-size:1.05rem}
.warning ul{margin:.3em 0;padding-left:1.2em}
nav ul{list-style:none;margin:1em 0;padding:0;display:flex;flex-wrap:wrap;gap:.2em 1.2em}
nav a{display:inline-block;padding:.3em 0}
.answers{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(23rem,100%),1fr));gap:.8em;margin:0}
.answers>div{background:var(--field);border-radius:8px;padding:.7em .9em}
dt{font-weight:600}
dd{margin:.2em 0 0}
.c0{--c:var(--c0)}.c1{--c:var(--c1)}.c2{--c:var(--c2)}.c3{--c:var(--c3)}.c4{--c:var(--c4)}.c5{--c:var(--c5)}
.c6{--c:var(--c6)}.c7{--c:var(--c7)}
.chip{display:inline-block;min-width:1.5em;padding:0 .35em;border-radius:.75em;background:var(--c);color:var(--on);
font-weight:600;font-size:.85em;line-height:1.5em;text-align:center}
.plot{margin:34px 14px 46px 62px}
.plot>svg{display:block;overflow:visible;font:12px system-ui,-apple-system,"Segoe UI",Roboto,sans-serif}
.at{overflow:visible}
.plot.network{height:220px;margin-bottom:34px}
.plot.cumulative{height:70px;margin-bottom:30px}
.plot.curves{height:340px}
.plot.strip{height:44px;margin-left:14px;margin-top:10px}
.plot.arena{height:320px;margin-bottom:34px}
text{fill:var(--text)}
.tick,.label{fill:var(--soft)}
.left,.end{text-anchor:end}
.below,.inside,.digits,.candidate{text-anchor:middle}
.inside{fill:var(--on);font-weight:600}
.digits{fill:var(--on);font-weight:700;font-size:11px}
.grid{stroke:var(--rule);stroke-width:1}
.bytes{fill:var(--bytes)}
.macs{fill:var(--macs)}
.candidate{fill:var(--soft);font-size:10px}
.cut{stroke:var(--text);stroke-width:1.5;stroke-dasharray:4 3}
.disk,.mark{fill:var(--c);stroke:var(--page);stroke-width:1.5}
.curve{stroke:var(--c);stroke-width:2}
.curve.second{stroke-dasharray:7 3}
.envelope{stroke:var(--text);stroke-width:7;stroke-opacity:.32;stroke-linecap:round}
.baseline{stroke:var(--soft);stroke-width:1.5}
.baseline.local{stroke-dasharray:1 4;stroke-linecap:round;stroke-width:2.5}
.baseline.input{stroke-dasharray:9 5}
.baseline.jpeg{stroke-dasharray:9 4 2 4}
.piece{fill:var(--c);stroke:var(--page);stroke-width:1.5}
.uncut{--c:var(--soft)}
.hole{fill:url(#hatch);stroke:var(--soft)}
.onhole{fill:var(--text);paint-order:stroke;stroke:var(--page);stroke-width:4px}
.buffer{stroke:var(--page);stroke-width:1.5}
.buffer.tensor{fill:var(--bytes)}
.buffer.input{fill:var(--c7)}
.buffer.scratch{fill:url(#dots);stroke:var(--soft);stroke-width:1}
#hatch path,#dots circle{stroke:var(--soft);fill:var(--soft)}
#hatch path{stroke-width:1.5}
.legend{list-style:none;padding:0;margin:.5em 0;display:grid;
grid-template-columns:repeat(auto-fit,minmax(min(19rem,100%),1fr));gap:.25em 1em;font-size:.9rem}
.legend svg{vertical-align:middle;margin-right:.5em;overflow:visible}
.scroll{overflow-x:auto;margin:.8em 0}
table{border-collapse:collapse;font-size:.88rem;font-variant-numeric:tabular-nums}
caption{text-align:left;font-weight:600;padding:.3em 0}
th{text-align:left;border-bottom:2px solid var(--rule);padding:.25em .7em .25em 0;vertical-align:bottom;
white-space:nowrap}
th.n{text-align:right}
td{border-bottom:1px solid var(--rule);padding:.25em .7em .25em 0;vertical-align:top;overflow-wrap:normal;white-space:nowrap;
min-width:2.5em}
td.n{text-align:right}
td.w{white-space:normal;min-width:16rem}
.point,.name{white-space:nowrap}
.what .name,dd .name,.legend .name{white-space:normal}
.bar{display:inline-block;vertical-align:middle;width:6em;height:.65em;background:var(--field)}
.bar>span{display:block;height:100%;background:var(--c0)}
.bar.bytes>span{background:var(--bytes)}
.bar.macs{background:var(--field)}
.bar.macs>span{background:var(--macs)}
.bar.cloud>span{background:var(--c2)}
.bar.poor>span{background:repeating-linear-gradient(45deg,var(--c1) 0 3px,transparent 3px 6px);border:1px solid var(--c1)}
details{margin:.8em 0}
summary{cursor:pointer;padding:.35em 0;color:var(--link)}
.layers{list-style:none;margin:.3em 0;padding:0;font-size:.88rem}
.layers li{display:grid;grid-template-columns:minmax(0,5fr) minmax(0,4fr) minmax(0,4fr);gap:0 1em;padding:.2em 0;
border-bottom:1px solid var(--rule)}
.layers .chosen,.layers .could{display:block}
.layers .chosen{border-top:3px solid var(--text);border-bottom:3px solid var(--text);font-weight:600}
.layers .could{color:var(--soft);font-size:.8rem;border-bottom:1px dashed var(--soft);padding:0 0 0 1em}
.layers .out,.layers .work{display:flex;align-items:baseline;gap:.6em}
.layers .bar{flex:none;width:4em}
.budget{display:flex;height:22px;background:var(--field);border:1px solid var(--rule);max-width:46rem}
.part{display:block;min-width:1px}
.swatch{display:inline-block;width:.8em;height:.8em}
.part.arena,.swatch.arena{background:var(--c0)}
.part.stack,.swatch.stack{background:var(--c1)}
.part.code,.swatch.code{background:var(--c2)}
.part.tables,.swatch.tables{background:repeating-linear-gradient(45deg,var(--c3) 0 5px,var(--page) 5px 7px)}
.sources{font-size:.88rem;padding-left:1.2em;max-width:60rem}
footer{margin:3em 0 1em;font-size:.88rem}
@media (max-width:40rem){.layers li{grid-template-columns:1fr 1fr;gap:0 .6em}.layers .what{grid-column:1/-1}
.layers .bar{width:2.2em}
.plot{margin-left:56px;margin-right:6px}.plot.strip{margin-left:6px}.legend{grid-template-columns:1fr}}
@media print{body{font-size:11pt;max-width:none;padding:0}section{break-inside:auto}.plot,tr,.layers li{break-inside:avoid}
h2,h3{break-after:avoid}nav{display:none}*{print-color-adjust:exact;-webkit-print-color-adjust:exact}
.scroll{overflow:visible}table{font-size:8pt}td,th{white-space:normal;min-width:0}}
""")
"""Rules; raw text in HTML, so without anything that XML would have escaped (``&``, ``<``)."""

SCRIPT = Markup(
    "addEventListener('beforeprint',function(){document.querySelectorAll('details').forEach("
    "function(part){part.open=true})})"
)
"""What is folded is printed, too."""

PATTERNS = Markup(
    '<svg width="0" height="0" style="position:absolute" aria-hidden="true"><defs>'
    '<pattern id="hatch" width="8" height="8" patternUnits="userSpaceOnUse">'
    '<path d="M-2 2L2-2M0 8L8 0M6 10L10 6"/></pattern>'
    '<pattern id="dots" width="5" height="5" patternUnits="userSpaceOnUse"><circle cx="2.5" cy="2.5" r="0.7"/></pattern>'
    "</defs></svg>"
)
"""Hatching for holes, dots for scratch memory."""
