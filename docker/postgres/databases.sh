#!/bin/sh
# A role and a database for each service that is named, and for nobody else. Runs at every start: what is there stays,
# passwords become what POSTGRES_PASSWORD_<SERVICE> says.
set -eu

for name in "$@"; do
    psql --no-psqlrc --quiet --set ON_ERROR_STOP=1 --set name="$name" \
        --set variable="POSTGRES_PASSWORD_$(echo "$name" | tr '[:lower:]' '[:upper:]')" <<'SQL'
\getenv password :variable
select format('create role %I login', :'name')
where not exists (select from pg_roles where rolname = :'name') \gexec
alter role :"name" with password :'password';
select format('create database %I owner %I', :'name', :'name')
where not exists (select from pg_database where datname = :'name') \gexec
revoke all on database :"name" from public;
SQL
done

# Databases that belong to no service are nobody's meeting place.
psql --no-psqlrc --quiet --set ON_ERROR_STOP=1 --command 'revoke connect on database postgres, template1 from public'
echo "databases: $*"
