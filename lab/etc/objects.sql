CREATE TABLE counting_results (
    id uuid PRIMARY KEY, camera text, counted_at timestamptz, count int, route text
);
ALTER TABLE counting_results OWNER TO app;
CREATE SCHEMA lifeboat;
CREATE TABLE lifeboat.probe (
    route text, region text, run text, token text, at timestamptz DEFAULT clock_timestamp(),
    PRIMARY KEY (route, region)
);
CREATE TABLE lifeboat.heartbeat (id int PRIMARY KEY CHECK (id = 1), at timestamptz);
GRANT USAGE ON SCHEMA lifeboat TO lifeboat_probe;
GRANT SELECT, INSERT, UPDATE ON lifeboat.probe TO lifeboat_probe;
