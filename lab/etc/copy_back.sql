-- What the service's owner grants so that tables can be copied back from a restored copy (backup.copy_back): membership in the
-- tables' owners, which may create in their schemas, and the row that says what was copied; and a schema for tables that are set aside.
GRANT CREATE ON SCHEMA public TO app;
GRANT app TO lifeboat_restore;
GRANT USAGE ON SCHEMA lifeboat TO lifeboat_restore;
GRANT INSERT ON lifeboat.restored TO lifeboat_restore;
GRANT CREATE ON DATABASE counting TO lifeboat_restore;
