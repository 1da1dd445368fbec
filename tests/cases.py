"""What several files of tests share: databases of every kind, damage to snapshots."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Collection
from hashlib import sha256
from pathlib import Path
from typing import Any

from servers import Database

import export_restore as er

# Each case: its schema, and the rows and calls that come after it.
CASES: dict[str, tuple[str, str]] = {
    "odd names": (
        """
        CREATE SCHEMA "Odd Schema";
        CREATE TABLE "Odd Schema"."Mixed Case" (
            "Select" serial PRIMARY KEY, "a.b" text, "q""uote" text, " " text,
            "é😀" text, "per%cent" text, "back\\slash" text, "new
line" text, "{brace}" text);
        CREATE TABLE "select" ("from" int PRIMARY KEY, "where" text);
        CREATE TABLE "dot.ted" (a int); CREATE SCHEMA dot; CREATE TABLE dot.ted (a int);
        CREATE TABLE "таблица" ("колонка" text UNIQUE NOT NULL); CREATE TABLE twin (a int);
        CREATE TABLE "Twin" (a int); CREATE TABLE "TWIN" (a int); CREATE TABLE "../up" (a int);
        CREATE TABLE "com1" ("NULL" int, "\\." text);
        CREATE TABLE xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx (a int);
        CREATE TABLE " " (" " int REFERENCES "select" ("from"));
        """,
        """
        INSERT INTO "Odd Schema"."Mixed Case" VALUES (DEFAULT, '1', '2', '3', '4', '5');
        INSERT INTO "select" VALUES (1, 'x');
        INSERT INTO "dot.ted" VALUES (1); INSERT INTO dot.ted VALUES (2);
        INSERT INTO "таблица" VALUES ('б'), ('а');
        INSERT INTO twin VALUES (1); INSERT INTO "Twin" VALUES (2);
        INSERT INTO "TWIN" VALUES (3); INSERT INTO "../up" VALUES (4);
        INSERT INTO com1 VALUES (1, '\\.'), (NULL, NULL);
        INSERT INTO xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx VALUES (5);
        INSERT INTO " " VALUES (1), (NULL);
        """,
    ),
    "keys of every kind": (
        """
        CREATE TABLE no_key (a int, b text);
        CREATE TABLE two_keys (a text, b int, c text, PRIMARY KEY (b, a));
        CREATE TABLE unique_only (a text NOT NULL, b int UNIQUE, UNIQUE (a));
        CREATE UNIQUE INDEX partial ON no_key (a) WHERE a > 100;
        CREATE TABLE late (a int UNIQUE DEFERRABLE INITIALLY DEFERRED, b int);
        CREATE TABLE nothing (); CREATE TABLE lonely (a text);
        CREATE TABLE covering (a int, b int, PRIMARY KEY (a) INCLUDE (b));
        """,
        """
        INSERT INTO no_key VALUES (2, 'x'), (1, NULL), (2, 'x'), (NULL, '');
        INSERT INTO two_keys VALUES ('b', 1, NULL), ('B', 1, ''), ('ä', 1, 'x'), ('a', 0, 'y');
        INSERT INTO unique_only VALUES ('z', NULL), ('Y', 1), ('', 2);
        INSERT INTO late VALUES (1, 1), (2, 2);
        INSERT INTO nothing DEFAULT VALUES; INSERT INTO nothing DEFAULT VALUES;
        INSERT INTO lonely VALUES (NULL), (''), ('\\.'), (NULL), ('NULL');
        INSERT INTO covering VALUES (2, 1), (1, 2);
        """,
    ),
    "indexes of every kind": (
        """
        CREATE TABLE ix (id int PRIMARY KEY, a int NOT NULL, b text, r int4range,
            CONSTRAINT "Odd unique" UNIQUE (a, b) DEFERRABLE INITIALLY DEFERRED,
            CONSTRAINT apart EXCLUDE USING gist (r WITH &&) WHERE (a > 0),
            UNIQUE NULLS NOT DISTINCT (b, r), UNIQUE (a) INCLUDE (b));
        CREATE INDEX "Odd index" ON ix (b DESC NULLS LAST, a) WHERE a < 50;
        CREATE INDEX ix_lower ON ix (lower(b), a) WITH (fillfactor = 60);
        ALTER INDEX ix_lower ALTER COLUMN 1 SET STATISTICS 500;
        CREATE UNIQUE INDEX ix_identity ON ix (a);
        ALTER TABLE ix REPLICA IDENTITY USING INDEX ix_identity; CREATE INDEX ix_cluster ON ix (b);
        ALTER TABLE ix CLUSTER ON ix_cluster; COMMENT ON INDEX ix_lower IS 'it''s a comment';
        COMMENT ON CONSTRAINT "Odd unique" ON ix IS 'and another';
        CREATE INDEX ix_hash ON ix USING hash (b);
        CREATE INDEX ix_brin ON ix USING brin (id) WITH (pages_per_range = 4);
        CREATE TABLE ix_grouped (id int PRIMARY KEY, a int);
        CREATE VIEW ix_view AS SELECT id, a FROM ix_grouped GROUP BY id;
        CREATE TABLE ix_filled (id int PRIMARY KEY WITH (fillfactor = 50));
        CREATE TABLE ix_rule (id int CONSTRAINT ix_rule_key UNIQUE);
        CREATE RULE again AS ON UPDATE TO ix_rule DO INSTEAD
            INSERT INTO ix_rule VALUES (1) ON CONFLICT ON CONSTRAINT ix_rule_key DO NOTHING;
        CREATE TABLE ix_part (id int, a int, b text, CONSTRAINT top_key PRIMARY KEY (id, a))
            PARTITION BY LIST (a);
        CREATE TABLE ix_part_1 (id int NOT NULL, a int NOT NULL, b text,
            CONSTRAINT own_name PRIMARY KEY (id, a), CONSTRAINT alone UNIQUE (b));
        ALTER TABLE ix_part ATTACH PARTITION ix_part_1 FOR VALUES IN (1);
        CREATE TABLE ix_part_2 PARTITION OF ix_part FOR VALUES IN (2) PARTITION BY RANGE (id);
        CREATE TABLE ix_part_2a PARTITION OF ix_part_2 FOR VALUES FROM (0) TO (100);
        CREATE INDEX own_index ON ix_part_1 (b, a); CREATE INDEX top_index ON ix_part (b, a);
        COMMENT ON INDEX own_index IS 'attached'; CREATE INDEX top_lower ON ix_part (lower(b));
        ALTER INDEX top_lower ALTER COLUMN 1 SET STATISTICS 33;
        ALTER INDEX ix_part_1_lower_idx ALTER COLUMN 1 SET STATISTICS 44;
        ALTER INDEX top_lower DEPENDS ON EXTENSION plpgsql;
        CREATE INDEX top_only ON ONLY ix_part (a); CREATE INDEX in_one ON ix_part_1 (a);
        ALTER INDEX top_only ATTACH PARTITION in_one;
        CREATE TABLE ix_state (id int, invalid boolean);
        CREATE INDEX ix_state_invalid_idx ON ix_state (id) WHERE invalid;
        COMMENT ON INDEX ix_state_invalid_idx IS 'on those that are invalid';
        CREATE TABLE ix_ref (id int, a int, FOREIGN KEY (id, a) REFERENCES ix_part,
            k int REFERENCES ix (a));
        """,
        """
        INSERT INTO ix SELECT i, i, 'B' || i, int4range(i * 10, i * 10 + 5)
            FROM generate_series(1, 30) AS i;
        INSERT INTO ix_grouped VALUES (1, 2), (2, 2);
        INSERT INTO ix_filled VALUES (2), (1); INSERT INTO ix_rule VALUES (3);
        INSERT INTO ix_part SELECT i, 1 + i % 2, 'x' || i FROM generate_series(1, 40) AS i;
        INSERT INTO ix_ref VALUES (2, 1, 5), (3, 2, 6), (NULL, NULL, NULL);
        """,
    ),
    "foreign keys of every kind": (
        """
        CREATE TABLE fk_a (id int PRIMARY KEY, parent int REFERENCES fk_a ON DELETE CASCADE,
                           x int, y int, UNIQUE (x, y));
        CREATE TABLE fk_b (id int PRIMARY KEY,
            a int REFERENCES fk_a ON UPDATE CASCADE ON DELETE SET DEFAULT
                DEFERRABLE INITIALLY DEFERRED,
            x int, y int, FOREIGN KEY (x, y) REFERENCES fk_a (x, y) MATCH FULL);
        ALTER TABLE fk_a ADD COLUMN b int CONSTRAINT "Cy cle" REFERENCES fk_b DEFERRABLE;
        CREATE TABLE fk_c (a int);
        ALTER TABLE fk_c ADD CONSTRAINT loose FOREIGN KEY (a) REFERENCES fk_a NOT VALID;
        COMMENT ON CONSTRAINT loose ON fk_c IS 'never checked: 100% {}';
        CREATE TABLE lax_check (a int);
        ALTER TABLE lax_check ADD CONSTRAINT positive CHECK (a > 0) NOT VALID;
        CREATE TABLE lax_part (a int) PARTITION BY LIST (a);
        CREATE TABLE lax_part_old PARTITION OF lax_part FOR VALUES IN (-1);
        ALTER TABLE lax_part ADD CONSTRAINT positive CHECK (a > 0) NOT VALID;
        CREATE TABLE lax_part_new PARTITION OF lax_part FOR VALUES IN (1);
        """,
        """
        INSERT INTO lax_part VALUES (1); ALTER TABLE lax_check DROP CONSTRAINT positive;
        INSERT INTO lax_check VALUES (-1), (1);
        ALTER TABLE lax_check ADD CONSTRAINT positive CHECK (a > 0) NOT VALID;
        INSERT INTO fk_a VALUES (1, 2, 1, 1), (2, 2, NULL, NULL);
        INSERT INTO fk_b VALUES (1, 1, 1, 1), (2, NULL, NULL, NULL); UPDATE fk_a SET b = 3 - id;
        ALTER TABLE fk_c DROP CONSTRAINT loose; INSERT INTO fk_c VALUES (1), (99);
        ALTER TABLE fk_c ADD CONSTRAINT loose FOREIGN KEY (a) REFERENCES fk_a NOT VALID;
        COMMENT ON CONSTRAINT loose ON fk_c IS 'never checked: 100% {}';
        """,
    ),
    "generated columns": (
        """
        CREATE FUNCTION twice(int) RETURNS int IMMUTABLE LANGUAGE sql AS 'SELECT $1 * 2';
        CREATE FUNCTION four_times(int) RETURNS int IMMUTABLE LANGUAGE plpgsql
            AS 'BEGIN RETURN twice(twice($1)); END';
        CREATE TABLE made (
            a int, b int GENERATED ALWAYS AS (four_times(a)) STORED, c text,
            CHECK (four_times(a) < 1000));
        CREATE TABLE all_made (a int GENERATED ALWAYS AS (7) STORED);
        CREATE INDEX made_idx ON made (four_times(a));
        """,
        """
        INSERT INTO made (a, c) VALUES (1, 'x'), (NULL, NULL);
        INSERT INTO all_made DEFAULT VALUES; INSERT INTO all_made DEFAULT VALUES;
        """,
    ),
    "sequences": (
        """
        CREATE TABLE s_always (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY);
        CREATE TABLE s_default (
            id bigint GENERATED BY DEFAULT AS IDENTITY
                (START 100 INCREMENT 10 MINVALUE 50 MAXVALUE 5000) PRIMARY KEY, a int);
        CREATE TABLE s_serial (id smallserial PRIMARY KEY, a int);
        ALTER SEQUENCE s_serial_id_seq RENAME TO "Renamed Seq"; CREATE SEQUENCE shared;
        CREATE TABLE s_one (id int DEFAULT nextval('shared') PRIMARY KEY);
        CREATE TABLE s_two (id int DEFAULT nextval('shared') PRIMARY KEY);
        CREATE SEQUENCE free AS smallint; CREATE SEQUENCE never_called START 5;
        CREATE SEQUENCE set_not_called; CREATE SEQUENCE down INCREMENT -3 MAXVALUE 100 START 100;
        CREATE TABLE s_down (id int DEFAULT nextval('down') PRIMARY KEY);
        CREATE SEQUENCE round_and_round MAXVALUE 3 CYCLE CACHE 1;
        CREATE TABLE s_cycle (id int DEFAULT nextval('round_and_round'));
        CREATE SEQUENCE used_up MAXVALUE 2; CREATE TABLE s_empty (id serial PRIMARY KEY);
        CREATE TABLE s_emptied (id serial PRIMARY KEY); CREATE DOMAIN key_number AS int;
        CREATE TABLE s_domain (id key_number DEFAULT nextval('free'));
        CREATE TABLE s_text (id text DEFAULT 'INV-' || nextval('free'));
        """,
        """
        INSERT INTO s_always SELECT FROM generate_series(1, 3);
        INSERT INTO s_default (a) VALUES (1), (2); INSERT INTO s_serial (a) VALUES (1), (2);
        INSERT INTO s_one DEFAULT VALUES; INSERT INTO s_two DEFAULT VALUES;
        INSERT INTO s_text DEFAULT VALUES; INSERT INTO s_domain DEFAULT VALUES;
        SELECT setval('set_not_called', 42, false);
        INSERT INTO s_down DEFAULT VALUES; INSERT INTO s_down DEFAULT VALUES;
        INSERT INTO s_cycle SELECT FROM generate_series(1, 4);
        SELECT nextval('used_up'), nextval('used_up');
        INSERT INTO s_emptied DEFAULT VALUES; DELETE FROM s_emptied;
        """,
    ),
    "partitions": (
        """
        CREATE TABLE part (id int, day date, note text, PRIMARY KEY (id, day))
            PARTITION BY RANGE (day);
        CREATE TABLE part_old PARTITION OF part FOR VALUES FROM (MINVALUE) TO ('2025-01-01');
        CREATE TABLE part_new PARTITION OF part FOR VALUES FROM ('2025-01-01') TO ('2026-01-01')
            PARTITION BY LIST (id);
        CREATE TABLE part_new_x PARTITION OF part_new FOR VALUES IN (2, 4);
        CREATE TABLE part_new_rest PARTITION OF part_new DEFAULT;
        CREATE TABLE part_rest (note text, gone int, day date NOT NULL, id int NOT NULL);
        ALTER TABLE part_rest DROP COLUMN gone; ALTER TABLE part ATTACH PARTITION part_rest DEFAULT;
        CREATE TABLE part_hash (a text, b int) PARTITION BY HASH (a);
        CREATE TABLE part_hash_0 PARTITION OF part_hash FOR VALUES WITH (MODULUS 2, REMAINDER 0);
        CREATE TABLE part_hash_1 PARTITION OF part_hash FOR VALUES WITH (MODULUS 2, REMAINDER 1);
        CREATE TABLE part_child (id int, day date,
            FOREIGN KEY (id, day) REFERENCES part) PARTITION BY LIST (id);
        CREATE TABLE part_child_1 PARTITION OF part_child FOR VALUES IN (1);
        CREATE TABLE part_child_2 PARTITION OF part_child FOR VALUES IN (2);
        CREATE TABLE leaf_target (id int PRIMARY KEY);
        ALTER TABLE part_child_2 ADD FOREIGN KEY (id) REFERENCES leaf_target;
        CREATE TABLE part_empty (a int) PARTITION BY RANGE (a);
        CREATE FUNCTION part_trigger() RETURNS trigger LANGUAGE plpgsql
            AS 'BEGIN RAISE EXCEPTION $$a trigger fired$$; END';
        CREATE TRIGGER guard BEFORE INSERT ON part FOR EACH ROW EXECUTE FUNCTION part_trigger();
        ALTER TABLE part_new DISABLE TRIGGER guard;
        ALTER TABLE part_old ENABLE ALWAYS TRIGGER guard;
        CREATE TRIGGER own BEFORE INSERT ON part_hash_0
            FOR EACH ROW EXECUTE FUNCTION part_trigger();
        """,
        """
        ALTER TABLE part DISABLE TRIGGER USER; ALTER TABLE part_hash_0 DISABLE TRIGGER USER;
        INSERT INTO part VALUES (1, '2024-05-05', 'o'), (2, '2025-05-05', 'x'),
            (3, '2025-05-05', NULL), (4, '2025-05-06', 'r'), (5, '2030-01-01', 'far');
        INSERT INTO part_hash SELECT n::text, n FROM generate_series(1, 20) AS n;
        INSERT INTO leaf_target VALUES (2);
        INSERT INTO part_child VALUES (1, '2024-05-05'), (2, '2025-05-05');
        ALTER TABLE part ENABLE TRIGGER USER; ALTER TABLE part_hash_0 ENABLE TRIGGER USER;
        ALTER TABLE part_new DISABLE TRIGGER guard;
        ALTER TABLE part_old ENABLE ALWAYS TRIGGER guard;
        """,
    ),
    "inheritance": (
        """
        CREATE TABLE inh (id serial PRIMARY KEY, a text);
        CREATE TABLE inh_child (b int, UNIQUE (id)) INHERITS (inh);
        CREATE TABLE inh_other (c int) INHERITS (inh);
        """,
        """
        INSERT INTO inh (a) VALUES ('p1'), ('p2'); INSERT INTO inh_child (a) VALUES ('c');
        INSERT INTO inh_other (a, c) VALUES ('o', 1);
        """,
    ),
    "types": (
        """
        CREATE TYPE mood AS ENUM ('sad', 'ok', 'it''s, "fine"', '');
        CREATE TYPE pair AS (a int, "B c" text); CREATE TYPE no_mood AS ENUM ();
        CREATE DOMAIN positive AS numeric(10, 3) CHECK (VALUE > 0) DEFAULT 1;
        CREATE DOMAIN pairs AS pair[];
        CREATE TYPE float_range AS RANGE (subtype = float8, subtype_diff = float8mi);
        CREATE TABLE types (
            a mood PRIMARY KEY, b pair, c positive, d pairs, e float_range, f int4multirange,
            g mood[], h tsvector, i money, j bit(3), k bit varying, l cidr, m inet,
            n macaddr, o point, p polygon, q jsonb, r uuid, s timetz, t "char", u name,
            v char(5), w int[][], x tsquery, y tstzrange, z oid, aa bytea, bb interval,
            cc regclass, dd pg_lsn, ee numeric, ff float4, gg jsonpath, hh varchar(3));
        CREATE UNLOGGED TABLE unlogged (a int);
        CREATE TABLE rooms (during tsrange, EXCLUDE USING gist (during WITH &&));
        CREATE TABLE shrunk (a int, gone text, b int); ALTER TABLE shrunk DROP COLUMN gone;
        CREATE DOMAIN lax AS int CONSTRAINT upto CHECK (VALUE < 9);
        ALTER DOMAIN lax ADD CONSTRAINT "Positive" CHECK (VALUE > 0) NOT VALID;
        COMMENT ON CONSTRAINT "Positive" ON DOMAIN lax IS 'never checked: 100% {}';
        CREATE TABLE of_domain (a lax, b lax[]);
        """,
        """
        INSERT INTO types VALUES ('it''s, "fine"', '(1,"x,""y")', 1.5, ARRAY[(1, NULL)::pair],
            '[1.5,Infinity)', '{[1,3),[5,)}', '{ok,NULL,""}', 'a:1A b', '-1234.56', '101',
            '', '10/8', '10.1.2.3/24', '08:00:2b:01:02:03', '(1,NaN)', '((0,0),(1,1),(1,0))',
            '{"a": [1, 1.50, "\\u20ac"]}', gen_random_uuid(), '12:00+05:30', 'x', 'n', 'ab',
            '[2:3][1:1]={{1},{2}}', 'a & b:*', '[2020-01-01,infinity]', 4000000000,
            '\\x0001fe', '1 year -2 days', 'pg_class', '16/B374D848', 'NaN', '-Infinity',
            '$.a', 'é');
        INSERT INTO types (a) VALUES ('sad'), (''); INSERT INTO unlogged VALUES (1);
        INSERT INTO rooms VALUES ('[2020-01-01,2020-01-02)'), (NULL), ('empty');
        INSERT INTO shrunk VALUES (1, 2); ALTER DOMAIN lax DROP CONSTRAINT "Positive";
        INSERT INTO of_domain VALUES (-1, '{-2,3}'), (1, NULL);
        ALTER DOMAIN lax ADD CONSTRAINT "Positive" CHECK (VALUE > 0) NOT VALID;
        COMMENT ON CONSTRAINT "Positive" ON DOMAIN lax IS 'never checked: 100% {}';
        """,
    ),
    "triggers, rules and policies": (
        """
        CREATE TABLE acted (id int PRIMARY KEY, a text); CREATE TABLE noted (a text);
        CREATE FUNCTION shout() RETURNS trigger LANGUAGE plpgsql AS $$
            BEGIN NEW.a = upper(NEW.a); RETURN NEW; END $$;
        CREATE TRIGGER t_enabled BEFORE INSERT ON acted FOR EACH ROW EXECUTE FUNCTION shout();
        CREATE TRIGGER t_always BEFORE INSERT ON acted FOR EACH ROW EXECUTE FUNCTION shout();
        CREATE TRIGGER t_replica BEFORE INSERT ON acted FOR EACH ROW EXECUTE FUNCTION shout();
        CREATE TRIGGER t_disabled BEFORE INSERT ON acted FOR EACH ROW EXECUTE FUNCTION shout();
        CREATE CONSTRAINT TRIGGER t_late AFTER INSERT ON acted DEFERRABLE INITIALLY DEFERRED
            FOR EACH ROW EXECUTE FUNCTION shout();
        ALTER TABLE acted ENABLE ALWAYS TRIGGER t_always;
        ALTER TABLE acted ENABLE REPLICA TRIGGER t_replica;
        ALTER TABLE acted DISABLE TRIGGER t_disabled;
        CREATE RULE r AS ON INSERT TO acted DO ALSO INSERT INTO noted VALUES (NEW.a);
        CREATE TABLE walled (id int PRIMARY KEY, owner name);
        ALTER TABLE walled ENABLE ROW LEVEL SECURITY;
        CREATE POLICY mine ON walled USING (owner = current_user);
        CREATE TABLE fenced (id int PRIMARY KEY); ALTER TABLE fenced ENABLE ROW LEVEL SECURITY;
        ALTER TABLE fenced FORCE ROW LEVEL SECURITY;
        """,
        """
        ALTER TABLE acted DISABLE TRIGGER USER;
        INSERT INTO acted VALUES (1, 'quiet'); TRUNCATE noted;
        ALTER TABLE acted ENABLE TRIGGER USER; ALTER TABLE acted ENABLE ALWAYS TRIGGER t_always;
        ALTER TABLE acted ENABLE REPLICA TRIGGER t_replica;
        ALTER TABLE acted DISABLE TRIGGER t_disabled;
        INSERT INTO walled VALUES (1, 'nobody'), (2, 'somebody'); INSERT INTO fenced VALUES (1);
        """,
    ),
    "views": (
        """
        CREATE TABLE fact (a int PRIMARY KEY);
        CREATE FUNCTION total() RETURNS bigint LANGUAGE sql
            SET search_path = public AS 'SELECT sum(a) FROM fact';
        CREATE MATERIALIZED VIEW z_first AS SELECT a, total() FROM fact;
        CREATE VIEW between_them AS SELECT * FROM z_first;
        CREATE MATERIALIZED VIEW a_second AS SELECT count(*) FROM between_them;
        CREATE UNIQUE INDEX ON a_second (count);
        CREATE MATERIALIZED VIEW empty AS SELECT * FROM fact WITH NO DATA;
        CREATE MATERIALIZED VIEW emptied AS SELECT * FROM fact;
        CREATE STATISTICS stats (ndistinct) ON a, total FROM z_first;
        """,
        """
        INSERT INTO fact VALUES (1), (2);
        REFRESH MATERIALIZED VIEW z_first; REFRESH MATERIALIZED VIEW a_second;
        REFRESH MATERIALIZED VIEW emptied WITH NO DATA;
        """,
    ),
    "routines": (
        """
        CREATE FUNCTION add_up(a int, b int) RETURNS int LANGUAGE sql
            BEGIN ATOMIC SELECT a; SELECT CASE WHEN a > b THEN a ELSE b END; END;
        CREATE FUNCTION quoting() RETURNS text LANGUAGE plpgsql AS $body$
            BEGIN /* ' */ RETURN $x$ ; -- not a comment $x$; END; $body$;
        CREATE PROCEDURE work(INOUT a int) LANGUAGE plpgsql AS 'BEGIN COMMIT; END';
        DO $do$ BEGIN EXECUTE 'CREATE TABLE hidden (a int)'; END $do$;
        CREATE AGGREGATE last_one (int) (sfunc = add_up, stype = int);
        CREATE SCHEMA made_whole
            CREATE TABLE inner_t (a int)
            CREATE VIEW inner_v AS SELECT a FROM inner_t;
        """,
        "INSERT INTO hidden VALUES (1); INSERT INTO made_whole.inner_t VALUES (1);",
    ),
}
CONTRIB = {
    "extensions": (
        """
        CREATE EXTENSION hstore; CREATE EXTENSION citext; CREATE EXTENSION ltree;
        CREATE EXTENSION btree_gist; CREATE EXTENSION tablefunc;
        CREATE TABLE extended (a citext PRIMARY KEY, b hstore, c ltree, d xml, e xml[]);
        CREATE TABLE booked (room int, during tsrange,
            EXCLUDE USING gist (room WITH =, during WITH &&));
        """,
        """
        INSERT INTO extended VALUES ('b', 'a=>1, "x y"=>NULL', 'Top.Science', '<a>&amp;</a>',
            '{<b/>,"plain text"}'), ('A', NULL, NULL, NULL, NULL);
        INSERT INTO booked VALUES (1, '[2020-01-01,2020-02-01)');
        """,
    )
}
ALL_AT_ONCE = (
    "\n".join(schema for schema, _ in CASES.values()),
    "\n".join(rows for _, rows in CASES.values()),
)


def compare(source: Database, target: Database) -> None:
    schemas = [target.schema(), source.schema()]
    if source.server.version != target.server.version:
        # 18 gives NOT NULL constraints names, which 16 does not keep.
        schemas = [re.sub(r"CONSTRAINT \w+ NOT NULL", "NOT NULL", s) for s in schemas]
    filled = (
        "SELECT relname, relispopulated FROM pg_class WHERE relkind = 'm' ORDER BY 1"
    )
    assert schemas[0] == schemas[1]
    for state in (Database.rows, Database.sequences, lambda d: d.fetch(filled)):
        assert state(target) == state(source)


def contents(folder: Path, pattern: str = "*") -> dict[str, bytes]:
    """Return the files of a folder."""
    return {path.name: path.read_bytes() for path in folder.glob(pattern)}


# ---- snapshots that were damaged, or forged


def rewrite(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change the manifest and give it a checksum that fits: a forger would, too."""
    path = folder / er.MANIFEST_FILE
    package = json.loads(path.read_text(encoding="utf-8"))
    change(package)
    package["postgresql"]["checksum"] = er.NO_CHECKSUM
    text = json.dumps(package, indent=1, ensure_ascii=False) + "\n"
    digest = sha256(text.encode()).hexdigest()
    path.write_text(text.replace(er.NO_CHECKSUM, digest), encoding="utf-8")


FILES = ("agents.csv", "leads.csv", "schema.sql", "catalog.txt", "datapackage.json")
Damage = Callable[[Path], object]


def flip(path: Path, place: int) -> None:
    raw = bytearray(path.read_bytes())
    raw[place] ^= 1
    path.write_bytes(raw)


def link(path: Path) -> None:
    shutil.move(path, path.parents[1] / path.name)
    path.symlink_to(path.parents[1] / path.name)


def become_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


HARM: dict[str, Damage] = {
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:-20]),
    "emptied": lambda path: path.write_bytes(b""),
    "first byte flipped": lambda path: flip(path, 0),
    "middle byte flipped": lambda path: flip(path, 100),
    "last byte flipped": lambda path: flip(path, -1),
    "doubled": lambda path: path.write_bytes(path.read_bytes() * 2),
    "a link": link,
    "a folder": become_folder,
    "in UTF-16": lambda path: path.write_bytes(path.read_text().encode("utf-16")),
    "missing": lambda path: path.unlink(),
}


def forge(*keys: str | int, value: object) -> Damage:
    """Return what sets a key of the manifest; the checksum will fit."""

    def change(package: Any) -> None:
        place = package
        for key in keys[:-1]:
            place = place[key]
        place[keys[-1]] = value

    return lambda folder: rewrite(folder, change)


def replace_csv(folder: Path, number: int, raw: bytes) -> None:
    """Give a table of the manifest another file, with hash and size that fit."""

    def change(package: Any) -> None:
        resource = package["resources"][number]
        (folder / resource["path"]).write_bytes(raw)
        resource |= {"hash": f"sha256:{sha256(raw).hexdigest()}", "bytes": len(raw)}

    rewrite(folder, change)


def forge_catalog(folder: Path, pattern: str, text: str) -> None:
    """Replace something in catalog.txt; its checksum in the manifest will fit."""
    path = folder / "catalog.txt"
    old = path.read_text(encoding="utf-8")
    assert pattern in old
    path.write_text(old.replace(pattern, text), encoding="utf-8")
    digest = sha256(path.read_bytes()).hexdigest()
    forge("postgresql", "files", "catalog.txt", value=f"sha256:{digest}")(folder)


def validated(folder: Path, faults: Collection[str] = ()) -> list[Any]:
    """Return what frictionless checked; all it may blame is columns' blank names."""
    import frictionless

    report = frictionless.validate(str(folder / "datapackage.json"))
    assert not report.errors
    found = report.flatten(["type", "name", "fieldName", "rowNumber", "message"])
    assert [each[2] for each in found if each[0] == "blank-label"] == list(faults)
    assert len(found) == len(faults), found
    return list(report.tasks)
