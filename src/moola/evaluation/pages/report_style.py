"""The style sheet of the HTML report."""

from __future__ import annotations

STYLE = """
:root{color-scheme:light dark;--ink:#1f2933;--soft:#66727e;--line:#dde3e8;--page:#fff;--card:#fff;
--violet:#6a3a8a;--green:#1b6e44;--red:#a3341f;--amber:#8a5a00;--grey:#5b6670}
@media(prefers-color-scheme:dark){:root{--ink:#e4e8ec;--soft:#9aa6b1;--line:#36404a;--page:#14191e;
--violet:#8d5fb0;--green:#2b8a5a;--red:#c24d36;--amber:#a8741a;--grey:#6b7782}}
*{box-sizing:border-box}
body{margin:0;background:var(--page);color:var(--ink);
font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif}
main{max-width:1080px;margin:0 auto;padding:32px 24px 64px}
h1{font-size:24px;line-height:1.25;font-weight:600;margin:0 0 8px}
h2{font-size:16px;font-weight:600;margin:36px 0 10px}
p{margin:0 0 6px}.lead{font-size:17px;max-width:75ch}.soft{color:var(--soft);font-weight:400;
font-size:13px}
dl{display:grid;grid-template-columns:max-content 1fr;gap:2px 16px;font-size:13px;margin:14px 0}
dt{color:var(--soft)}dd{margin:0;overflow-wrap:anywhere}
.wide{overflow-x:auto}
table{border-collapse:collapse;width:100%;font-size:14px}
th,td{text-align:left;vertical-align:top;padding:8px 14px 8px 0;border-top:1px solid var(--line)}
th{font-weight:600;white-space:nowrap}tr:first-child th{color:var(--soft);font-weight:500;
font-size:13px;border-top:0}
.numbers td,.numbers th{padding-right:6px}.numbers tr:first-child th{white-space:normal}
.numbers .soft{font-size:11px;white-space:nowrap}
.numbers td,.numbers tr:first-child th:not(:first-child){text-align:right;
font-variant-numeric:tabular-nums}
ul{margin:4px 0 0;padding-left:18px;color:var(--soft);font-size:13px}
.badge{display:inline-block;padding:1px 9px;border-radius:9px;color:#fff;font-size:13px;
background:var(--grey)}
.passed{background:var(--green)}.failed{background:var(--red)}.inconclusive{background:var(--amber)}
.held{background:var(--violet)}
.row{display:flex;flex-wrap:wrap;gap:16px}
figure{margin:0;padding:8px;background:#fff;border:1px solid var(--line);border-radius:6px}
img{display:block;max-width:100%;height:auto;max-height:380px}
.two figure{flex:0 1 calc(50% - 8px);min-width:320px}
details{margin-top:36px;font-size:13px}summary{cursor:pointer;color:var(--soft)}
@media print{main{max-width:none;padding:0}figure{break-inside:avoid}}
"""
