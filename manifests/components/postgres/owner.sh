# Run once, by the image, when the data folder is empty: the service owns its database and is no superuser.
psql --set=ON_ERROR_STOP=1 --set=owner="$OWNER" --set=password="$OWNER_PASSWORD" --username=postgres --dbname=postgres <<'SQL'
create role :"owner" login password :'password';
create database :"owner" owner :"owner";
revoke all on database :"owner" from public;
SQL
