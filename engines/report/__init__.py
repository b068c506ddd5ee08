"""The report: measurements and answers as one page for people, as tables, and as a gate for programs.

`material` reads files, `check` refuses what cannot be believed, `subjects` names the bundles, `judge` compares them
and `differences` where they were measured, `page` says what a page shows, and `write` and `text` write it down.
"""
