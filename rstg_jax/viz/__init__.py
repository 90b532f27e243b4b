"""Charts, the HTML report, drawings of the graph and annotated videos."""
