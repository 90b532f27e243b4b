"""Charts, HTML pages, drawings of the graph, annotated videos, files of labels over time."""
