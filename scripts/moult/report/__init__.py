"""Pictures and the report, out of tables and manifests."""
