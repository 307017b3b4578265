"""lifeboat-archive: WAL and base backups in S3 as plain objects, by `archive_command` and pg_basebackup.

A program of its own, which runs once a WAL file on database hosts: the standard library, and botocore only where a
store is asked. It speaks the part of pgBackRest's command line that Lifeboat uses (docs/adr/0038-a-plain-archive.md).

    PREFIX/wal/NAME                      WAL files, `.history`, `.partial` and `.backup`, each as PostgreSQL made it
    PREFIX/base/LABEL/base.tar.gz        what pg_basebackup wrote: any tar unpacks it
    PREFIX/base/LABEL/backup_manifest    PostgreSQL's own, with the checksum of every file
    PREFIX/base/LABEL/index.json         where which file is in the tar, so that some can be read alone
    PREFIX/base/LABEL/backup.json        what the backup is, and that it is one: it is written last
"""
