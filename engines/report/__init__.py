"""The report: measurements and answers as one page for people, as tables, and as a gate for programs.

`material` reads files and refuses what cannot be believed, `subjects` names the bundles, `judge` compares them,
`verdict` says what that comes to and whether it is allowed, `cells` and `plots` put it into tables and pictures, `page`
says what a page shows, and `write` writes it down.
"""
