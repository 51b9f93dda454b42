"""Dashboards, alerts and objectives, from which the chart's files are made: `python -m deploy.observability`."""
