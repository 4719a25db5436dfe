"""How a report looks: the page, its charts, plots and images."""
