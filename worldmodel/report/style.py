"""The report's style sheet. Its colours are those of ``theme``, once for each colour scheme of the reader."""

from __future__ import annotations

from worldmodel.report.theme import DARK, LIGHT, Theme


def style_sheet() -> str:
    """The whole CSS."""
    return (
        f":root {{ color-scheme: light dark; {_variables(LIGHT)} }}\n"
        f"@media (prefers-color-scheme: dark) {{ :root {{ {_variables(DARK)} }} }}\n{_RULES}"
    )


def _variables(theme: Theme) -> str:
    names = ("page", "raised", "ink", "muted", "line", "neutral", "accent")
    return " ".join(f"--{name}: {getattr(theme, name)};" for name in names)


_RULES = """
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body {
  margin: 0; background: var(--page); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif;
}
main { max-width: 1240px; margin: 0 auto; padding: 44px 32px 96px; }
h1 { font-size: clamp(28px, 3.4vw, 42px); line-height: 1.12; letter-spacing: -0.02em; margin: 0 0 10px; text-wrap: balance; }
h2 { font-size: 26px; letter-spacing: -0.01em; line-height: 1.2; margin: 0 0 8px; }
h3 { font-size: 18px; line-height: 1.3; margin: 0 0 4px; }
p { margin: 0 0 12px; max-width: 70ch; }
img, video { display: block; max-width: 100%; }
.lede { font-size: clamp(17px, 1.5vw, 20px); line-height: 1.45; color: var(--muted); margin-bottom: 0; }
.nb { white-space: nowrap; }
.small, .remark { font-size: 14px; color: var(--muted); }
.remark { border-left: 3px solid var(--line); padding: 2px 0 2px 12px; }
section { margin-top: 88px; }

/* First screen: videos on the left, numbers on the right. */
.hero { display: grid; grid-template-columns: minmax(0, 1.3fr) minmax(0, 1fr); gap: 34px 60px; margin-top: 30px; align-items: start; }
.cards { display: grid; grid-template-columns: repeat(2, minmax(0, 1fr)); gap: 22px 24px; }
.card { margin: 0; }
.pair { display: grid; grid-template-columns: repeat(2, minmax(0, 1fr)); gap: 10px; }
.pair span { display: block; font-size: 13px; line-height: 1; margin-bottom: 6px; color: var(--muted); }
.pair img, .pair video, .cell img { width: 100%; aspect-ratio: 1; border-radius: 5px; background: var(--raised); }
.pair .goal img { outline: 2px solid var(--accent); outline-offset: -1px; }
.pair .goal span { color: var(--accent); font-weight: 600; }
figcaption { font-size: 13.5px; color: var(--muted); margin-top: 7px; }
figcaption b { color: var(--ink); font-weight: 600; }
.cards-note { margin-top: 14px; }

.bars { display: grid; gap: 15px; }
.bars h2 { font-size: 18px; margin: 0; }
.bar-head { display: flex; align-items: baseline; gap: 10px; font-size: 15px; line-height: 1.3; }
.bar-head .name { flex: 1; }
.bar-head .num { font-variant-numeric: tabular-nums; font-weight: 600; }
.bar-head .ci { font-variant-numeric: tabular-nums; color: var(--muted); font-size: 13px; min-width: 84px; text-align: right; }
.ours .name { font-weight: 650; color: var(--accent); }
.track { position: relative; height: 10px; margin-top: 5px; border-radius: 3px; background: var(--raised); }
.track .fill { position: absolute; inset: 0 auto 0 0; border-radius: 3px; background: var(--neutral); min-width: 2px; }
.ours .fill { background: var(--accent); }
.track .interval { position: absolute; top: 50%; height: 0; border-top: 2px solid var(--ink); transform: translateY(-1px); }
.track .interval::before, .track .interval::after {
  content: ""; position: absolute; top: -6px; height: 10px; border-left: 2px solid var(--ink);
}
.track .interval::before { left: 0; }
.track .interval::after { right: 0; }
.verdict { margin-top: 20px; padding-top: 16px; border-top: 1px solid var(--line); }
.verdict p:last-child { margin-bottom: 0; }

/* Filmstrips: a label, then a row of frames; rows of one strip share their columns. */
.step { margin-top: 44px; }
.scroll { overflow-x: auto; margin-top: 16px; }
.film { display: grid; gap: 10px 14px; min-width: 680px; }
.film-row { display: grid; grid-template-columns: 148px minmax(0, 1fr); gap: 14px; align-items: center; }
.film-label { font-size: 14px; line-height: 1.35; }
.film-label b { display: block; font-weight: 600; }
.film-label span { color: var(--muted); font-size: 13px; }
.cells { display: grid; grid-template-columns: repeat(var(--n), minmax(0, 1fr)); gap: 6px; max-width: calc(var(--n) * 122px); }
.cell { margin: 0; min-width: 0; }
.cell figcaption { font-size: 12px; margin: 3px 0 0; text-align: center; font-variant-numeric: tabular-nums; line-height: 1.3; }
.cells.with-goal { grid-template-columns: minmax(0, 1fr) 3px repeat(var(--n), minmax(0, 1fr)); max-width: calc(var(--n) * 122px + 130px); }
.cell.goal-cell img { outline: 2px solid var(--accent); outline-offset: -1px; }
.cell.goal-cell figcaption { color: var(--accent); font-weight: 600; }
.cell.holes img { background: repeating-linear-gradient(45deg, var(--neutral) 0 3px, var(--line) 3px 6px); }
.gap { margin-top: 40px; }
.film-group + .film-group { margin-top: 34px; }
.step > * + p { margin-top: 30px; }
.step > h3 + p { margin-top: 0; }
h2 + h3 { margin-top: 24px; }

.plots { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(340px, 100%), 1fr)); gap: 26px 30px; margin-top: 18px; }
.plots img { width: 100%; }
.legend { display: flex; flex-wrap: wrap; gap: 4px 22px; font-size: 14px; margin-top: 12px; }
.legend i { display: inline-block; width: 22px; height: 0; border-top: 3px solid; vertical-align: 4px; margin-right: 7px; }
.legend i.dashed { border-top-style: dashed; border-top-width: 2px; }

.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: 15px; margin-top: 14px; }
th, td { text-align: left; padding: 9px 18px 9px 0; border-bottom: 1px solid var(--line); vertical-align: baseline; }
th { font-size: 13px; font-weight: 600; color: var(--muted); white-space: nowrap; }
td.n, th.n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
td .small { display: block; font-size: 13px; }
tr.ours td:first-child { color: var(--accent); font-weight: 650; }
tr.ours td:first-child .small { color: var(--muted); font-weight: 400; }

.stage { padding: 16px 0; border-bottom: 1px solid var(--line); }
.stage-head { display: grid; grid-template-columns: minmax(0, 1fr) minmax(120px, 300px) 74px; gap: 16px; align-items: center; }
.stage-head .track { margin: 0; }
.stage-head .num { text-align: right; font-variant-numeric: tabular-nums; font-size: 15px; }
.stage-head .small { display: block; }
code {
  display: block; overflow-x: auto; white-space: pre; margin-top: 8px; padding: 8px 12px; border-radius: 5px; background: var(--raised);
  font: 13px/1.5 ui-monospace, SFMono-Regular, Menlo, Consolas, "Liberation Mono", monospace; user-select: all; -webkit-user-select: all;
}

/* A pretraining's page. */
.run-hero { margin-top: 30px; }
.wide-video { margin: 0; }
.wide-video video { width: 100%; border-radius: 6px; }
.panels { display: flex; gap: 8px; font-size: 14px; font-weight: 600; margin-bottom: 6px; }
.panel { flex: 1; }
.facts { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(300px, 100%), 1fr)); gap: 16px 30px; margin: 28px 0 0; }
.facts dt { font-size: 13px; color: var(--muted); }
.facts dd { margin: 0; font-variant-numeric: tabular-nums; }
.warnings { border-left: 3px solid var(--accent); padding: 4px 0 4px 16px; margin-top: 32px; }
.warnings ul { margin: 6px 0 0; padding-left: 18px; max-width: 80ch; }
.well { margin-top: 32px; color: var(--muted); }
details { margin-top: 26px; }
summary { cursor: pointer; font-weight: 600; }
.swatch { display: inline-block; width: 11px; height: 11px; border-radius: 3px; margin-right: 9px; }

@media (max-width: 940px) {
  .hero { grid-template-columns: minmax(0, 1fr); }
  section { margin-top: 64px; }
}
@media (max-width: 620px) {
  main { padding: 26px 18px 64px; }
  .cards { gap: 16px 14px; }
  .pair { gap: 5px; }
  .film { min-width: 0; }
  .film-row { grid-template-columns: minmax(0, 1fr); gap: 5px; }
  .film-label b { display: inline; margin-right: 8px; }
  .cells { grid-template-columns: repeat(var(--n), minmax(62px, 1fr)); }
  .cells.with-goal { grid-template-columns: minmax(62px, 1fr) 3px repeat(var(--n), minmax(62px, 1fr)); }
  .cells { gap: 4px; }
  td .small { display: none; }
  th, td { padding-right: 14px; }
  .stage-head { grid-template-columns: minmax(0, 1fr) 64px; }
  .stage-head .track { grid-column: 1 / -1; grid-row: 2; }
}
"""
