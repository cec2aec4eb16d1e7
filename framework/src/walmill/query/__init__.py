"""SQL over a view: tables for DataFusion, running and stopping a query, and the formats of results."""
