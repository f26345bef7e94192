"""Results to words and pictures: rows -> results.json, terminal, Markdown, one HTML page.

`gather` runs models; everything else works on plain data, so a report is drawn again without any. `rows` results.json · `table`
terminal and Markdown · `sentence` the verdict · `pairs` who is told apart from whom · `robustbench` entries for its leaderboard · `pictures` what the gallery shows, on disk · `page` the HTML page, from `charts`
and `training` (geometry in `plot`), `gallery` (small pictures) and `templates/`.
"""
