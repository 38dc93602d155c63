"""Dashboards as code, their data sources, and what runs their queries."""
