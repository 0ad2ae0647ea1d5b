"""The revisions; each is named by the version of the tables that it makes."""
