"""The configuration: its schema, its rules, and how a command line becomes one."""
