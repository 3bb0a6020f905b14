"""``report.html``: one self-contained page about a compilation, for people who have not read the papers.

Plain HTML with inline SVG from a few helpers: texts keep their size on a phone while the drawings stretch, colors follow
light and dark mode, and equal input gives equal bytes. (Pictures of a plotting library scale their texts with them.)
"""
