CREATE TABLE counting_results (
    id uuid PRIMARY KEY, camera text, counted_at timestamptz, count int, route text
);
ALTER TABLE counting_results OWNER TO app;
