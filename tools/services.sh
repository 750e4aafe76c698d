#!/usr/bin/env bash
# Services to test against, on this machine's loopback alone: a SLURM of one node with accounting and
# two fake GPUs, an sshd, PostgreSQL, RabbitMQ.
#
#   tools/services.sh start|stop|status [slurm|sshd|postgres|rabbitmq ...]     (all of them without a name)
#
# All that they keep is under $SERVICES_DIR (.services beside this folder). `start` installs what is
# missing where it is root and has apt-get; what cannot run says why, and the tests skip. `start` and
# `stop` never fail; `status` fails where a service does not run, and says why.
#
# With CI_MACHINE set, the name of the machine is put into /etc/hosts if SLURM needs it there.
#
# What the tests use:
#   slurm     SLURM_CONF=$SERVICES_DIR/slurm/slurm.conf
#   sshd      HOME=$SERVICES_DIR/sshd/home, whose .ssh/config knows the host aiida-rm-sshd
#   postgres  127.0.0.1:5433, user and password aiida_rm, who may create databases
#   rabbitmq  127.0.0.1:5672, guest
set -u
cd "$(dirname "$0")/.." || exit 1
ROOT=${SERVICES_DIR:-$PWD/.services}
mkdir -p "$ROOT" && ROOT=$(cd "$ROOT" && pwd) || exit 1
chmod 755 "$ROOT"
SSH_PORT=2222 PG_PORT=5433 MYSQL_PORT=3307
export PATH=$PATH:/usr/sbin:/sbin
PG_BIN=$(ls -d /usr/lib/postgresql/*/bin 2>/dev/null | sort -V | tail -n 1)
RB_BIN=/usr/lib/rabbitmq/bin

# Why a service does not run; `status` tells.
because() { echo "$2" >"$ROOT/$1.reason"; return 1; }

am_root() { [ "$(id -u)" = 0 ]; }

# install PROGRAM PACKAGE...: have the program, one way or another.
install_for() {
    command -v "$1" >/dev/null && return 0
    am_root && command -v apt-get >/dev/null || return 1
    [ -e "$ROOT/updated" ] || { apt-get update && touch "$ROOT/updated"; } >/dev/null 2>&1
    DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "${@:2}" >"$ROOT/apt.log" 2>&1
    command -v "$1" >/dev/null
}

# wait_for SECONDS COMMAND...
wait_for() {
    local end=$((SECONDS + $1))
    until "${@:2}" >/dev/null 2>&1; do
        [ $SECONDS -lt $end ] || return 1
        sleep 0.5
    done
}

# free PORT: nobody listens there.
free() { ! (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

# end FILE: end the process whose number is in the file.
end() { if [ -s "$1" ]; then kill "$(head -n 1 "$1")" 2>/dev/null; fi; }

# --- sshd ---------------------------------------------------------------------------------------------
sshd_up() { (cd / && ssh -F "$ROOT/sshd/home/.ssh/config" -o BatchMode=yes -o ConnectTimeout=5 aiida-rm-sshd true) >/dev/null 2>&1; }

start_sshd() {
    local D=$ROOT/sshd user
    user=$(id -un)
    install_for sshd openssh-server && install_for ssh openssh-client ||
        { because sshd "there is no sshd (Debian: openssh-server), and it cannot be installed here"; return; }
    free $SSH_PORT || { because sshd "port $SSH_PORT is taken"; return; }
    mkdir -p "$D/home/.ssh"
    am_root && mkdir -p /run/sshd
    chmod 700 "$D" "$D/home/.ssh"
    [ -f "$D/hostkey" ] || ssh-keygen -q -t ed25519 -N '' -f "$D/hostkey"
    [ -f "$D/id" ] || ssh-keygen -q -t ed25519 -N '' -f "$D/id"
    cp "$D/id.pub" "$D/authorized_keys"
    echo "[127.0.0.1]:$SSH_PORT $(cut -d ' ' -f 1,2 "$D/hostkey.pub")" >"$D/home/.ssh/known_hosts"
    cat >"$D/sshd_config" <<C
Port $SSH_PORT
ListenAddress 127.0.0.1
HostKey $D/hostkey
PidFile $D/pid
AuthorizedKeysFile $D/authorized_keys
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin prohibit-password
UsePAM no
StrictModes no
MaxSessions 50
MaxStartups 50:30:100
Subsystem sftp internal-sftp
C
    cat >"$D/home/.ssh/config" <<C
Host aiida-rm-sshd
    HostName 127.0.0.1
    Port $SSH_PORT
    User $user
    IdentityFile $D/id
    IdentitiesOnly yes
    UserKnownHostsFile $D/home/.ssh/known_hosts
C
    chmod 600 "$D/home/.ssh/config" "$D/id"
    "$(command -v sshd)" -f "$D/sshd_config" -E "$D/log"
    wait_for 10 sshd_up || because sshd "nobody can log in: $(tail -n 1 "$D/log")"
}

stop_sshd() { end "$ROOT/sshd/pid"; }

# --- postgres -----------------------------------------------------------------------------------------
pg() { # as a user who is not root, which postgres refuses to be
    if am_root; then
        (cd / && setpriv --reuid=postgres --regid=postgres --init-groups "$@")
    else
        "$@"
    fi
}

postgres_up() { [ -n "$PG_BIN" ] && "$PG_BIN/pg_isready" -q -h 127.0.0.1 -p $PG_PORT && [ -s "$ROOT/postgres/data/postmaster.pid" ]; }

start_postgres() {
    local D=$ROOT/postgres
    if [ -z "$PG_BIN" ]; then
        install_for pg_ctl postgresql
        PG_BIN=$(ls -d /usr/lib/postgresql/*/bin 2>/dev/null | sort -V | tail -n 1)
    fi
    [ -n "$PG_BIN" ] || { because postgres "there is no PostgreSQL (Debian: postgresql), and it cannot be installed here"; return; }
    free $PG_PORT || { because postgres "port $PG_PORT is taken"; return; }
    mkdir -p "$D"
    if am_root; then
        chown postgres "$D"
        pg test -w "$D" || { because postgres "the user postgres cannot get to $D; set SERVICES_DIR to a folder that all may enter"; return; }
    fi
    if [ ! -s "$D/data/PG_VERSION" ]; then
        echo aiida_rm >"$D/password"
        pg "$PG_BIN/initdb" -D "$D/data" -U aiida_rm -A scram-sha-256 --pwfile="$D/password" -E UTF8 --locale=C.UTF-8 --no-sync >"$D/initdb.log" 2>&1 ||
            { because postgres "initdb failed: $(tail -n 1 "$D/initdb.log")"; return; }
    fi
    pg "$PG_BIN/pg_ctl" -D "$D/data" -w -t 60 -l "$D/data/log" -o "-c listen_addresses=127.0.0.1 -p $PG_PORT -c unix_socket_directories= -c fsync=off" start >/dev/null 2>&1
    wait_for 10 postgres_up || because postgres "it did not start: $(tail -n 1 "$D/data/log")"
}

stop_postgres() { pg "$PG_BIN/pg_ctl" -D "$ROOT/postgres/data" -m fast -w stop >/dev/null 2>&1; }

# --- rabbitmq -----------------------------------------------------------------------------------------
rabbitmq() {
    local D=$ROOT/rabbitmq program=$1
    shift
    # The cookie that the programs know each other by lies in HOME.
    HOME=$D RABBITMQ_NODENAME=aiida_rm@localhost \
        RABBITMQ_NODE_IP_ADDRESS=127.0.0.1 RABBITMQ_NODE_PORT=5672 RABBITMQ_DIST_PORT=25672 \
        ERL_EPMD_ADDRESS=127.0.0.1 \
        RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS="-kernel inet_dist_use_interface {127,0,0,1}" \
        RABBITMQ_MNESIA_BASE=$D/mnesia RABBITMQ_LOG_BASE=$D/log RABBITMQ_PID_FILE=$D/pid \
        RABBITMQ_ENABLED_PLUGINS_FILE=$D/enabled_plugins RABBITMQ_CONFIG_FILE=$D/rabbitmq \
        RABBITMQ_ADVANCED_CONFIG_FILE=$D/advanced.config "$RB_BIN/$program" "$@"
}

rabbitmq_up() { [ -s "$ROOT/rabbitmq/pid" ] && kill -0 "$(cat "$ROOT/rabbitmq/pid")" 2>/dev/null && ! free 5672; }

start_rabbitmq() {
    local D=$ROOT/rabbitmq
    install_for rabbitmq-server rabbitmq-server
    [ -x $RB_BIN/rabbitmq-server ] || { because rabbitmq "there is no RabbitMQ (Debian: rabbitmq-server), and it cannot be installed here"; return; }
    free 5672 || { because rabbitmq "port 5672 is taken"; return; }
    mkdir -p "$D"
    echo '[].' >"$D/enabled_plugins"
    # Else a message that is not acknowledged within half an hour ends the channel, and with it the process.
    echo '[{rabbit, [{consumer_timeout, undefined}]}].' >"$D/advanced.config"
    (rabbitmq rabbitmq-server >"$D/out" 2>&1 </dev/null &)
    wait_for 120 rabbitmq_up && wait_for 120 rabbitmq rabbitmqctl -q await_startup --timeout 60 ||
        because rabbitmq "it did not start: $(tail -n 1 "$D/out")"
}

stop_rabbitmq() { [ -d "$ROOT/rabbitmq" ] && rabbitmq rabbitmqctl -q shutdown >/dev/null 2>&1; }

# --- slurm --------------------------------------------------------------------------------------------
slurm_up() { SLURM_CONF=$ROOT/slurm/slurm.conf timeout 20 sinfo -h -o %T 2>/dev/null | grep -Eq 'idle|mix|alloc'; }

start_slurm() {
    local D=$ROOT/slurm host memory
    host=$(hostname -s)
    am_root || { because slurm "only root can start it here"; return; }
    install_for slurmctld slurm-wlm munge slurmdbd mariadb-server && install_for munged munge && install_for slurmdbd slurmdbd && install_for mariadbd mariadb-server ||
        { because slurm "there is no SLURM (Debian: slurm-wlm munge slurmdbd mariadb-server), and it cannot be installed here"; return; }
    getent hosts "$host" | grep -q '^127\.' || { [ -n "${CI_MACHINE:-}" ] && echo "127.0.0.1 $host" >>/etc/hosts; } || { because slurm "the name of this machine, $host, must be 127.0.0.1 in /etc/hosts"; return; }
    free 6817 && free 6818 && free 6819 && free $MYSQL_PORT || { because slurm "one of the ports 6817 to 6819 and $MYSQL_PORT is taken"; return; }
    [ ${#D} -lt 80 ] || { because slurm "the name of $D is too long for a socket; set SERVICES_DIR"; return; }
    mkdir -p "$D"/{state,spool,log} && chmod 755 "$D" "$D"/*
    # Where SLURM looks for it; the package has made its key.
    if ! munge -n >/dev/null 2>&1; then
        install -d -o munge -g munge -m 755 /run/munge
        setpriv --reuid=munge --regid=munge --init-groups "$(command -v munged)" --num-threads=2 2>>"$D/log/munged.log" && touch "$D/own_munged"
    fi
    wait_for 10 munge -n || { because slurm "munged did not start: $(tail -n 1 "$D/log/munged.log")"; return; }
    for i in 0 1; do [ -e "$D/gpu$i" ] || mknod -m 666 "$D/gpu$i" c 1 3; done # as /dev/null is
    memory=$(awk '/MemTotal/ {print int($2 / 1024 * 0.9)}' /proc/meminfo)
    cat >"$D/slurm.conf" <<C
ClusterName=aiida_rm
SlurmctldHost=$host(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
SlurmctldPort=6817
SlurmdPort=6818
StateSaveLocation=$D/state
SlurmdSpoolDir=$D/spool
SlurmctldPidFile=$D/slurmctld.pid
SlurmdPidFile=$D/slurmd.pid
SlurmctldLogFile=$D/log/slurmctld.log
SlurmdLogFile=$D/log/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=2
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
GresTypes=gpu
MpiDefault=none
ReturnToService=2
KillWait=10
InactiveLimit=0
SchedulerParameters=batch_sched_delay=0,sched_interval=1,bf_interval=1
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=localhost
AccountingStoragePort=6819
NodeName=$host NodeAddr=127.0.0.1 CPUs=$(nproc) RealMemory=$memory Gres=gpu:2 State=UNKNOWN
PartitionName=debug Nodes=$host Default=YES MaxTime=INFINITE State=UP OverSubscribe=FORCE:4
C
    echo "NodeName=$host Name=gpu File=$D/gpu[0-1]" >"$D/gres.conf"
    echo "CgroupPlugin=cgroup/v1" >"$D/cgroup.conf"
    cat >"$D/slurmdbd.conf" <<C
AuthType=auth/munge
DbdHost=localhost
DbdAddr=127.0.0.1
DbdPort=6819
SlurmUser=root
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StoragePort=$MYSQL_PORT
StorageUser=slurm
StoragePass=slurm
StorageLoc=slurm_acct_db
CommunicationParameters=NoInAddrAny
LogFile=$D/log/slurmdbd.log
PidFile=$D/slurmdbd.pid
C
    chmod 600 "$D/slurmdbd.conf"
    # MariaDB refuses to be root as well, and must get to its folder.
    mkdir -p "$D/mysql" && chown mysql "$D/mysql"
    setpriv --reuid=mysql --regid=mysql --init-groups test -w "$D/mysql" || { because slurm "the user mysql cannot get to $D; set SERVICES_DIR to a folder that all may enter"; stop_slurm; return; }
    [ -d "$D/mysql/mysql" ] || mariadb-install-db --no-defaults --user=mysql --datadir="$D/mysql" --auth-root-authentication-method=socket --skip-test-db >"$D/log/mysql-install.log" 2>&1
    (setsid mariadbd --no-defaults --user=mysql --datadir="$D/mysql" --socket="$D/mysql/s" --bind-address=127.0.0.1 --port=$MYSQL_PORT --pid-file="$D/mysql/pid" --innodb-lock-wait-timeout=900 >"$D/log/mysql.log" 2>&1 </dev/null &)
    wait_for 60 mariadb-admin --no-defaults --socket="$D/mysql/s" ping || { because slurm "its database did not start: $(tail -n 1 "$D/log/mysql.log")"; stop_slurm; return; }
    for at in localhost 127.0.0.1; do
        mariadb --no-defaults --socket="$D/mysql/s" -e "create user if not exists slurm@'$at' identified by 'slurm'; grant all on slurm_acct_db.* to slurm@'$at'"
    done
    export SLURM_CONF=$D/slurm.conf
    slurmdbd
    wait_for 30 sacctmgr -n show cluster
    sacctmgr -i add cluster aiida_rm >/dev/null 2>&1
    slurmctld -f "$SLURM_CONF"
    slurmd -f "$SLURM_CONF"
    wait_for 60 slurm_up || { because slurm "no node became idle: $(tail -n 1 "$D/log/slurmctld.log")"; stop_slurm; }
}

stop_slurm() {
    local D=$ROOT/slurm service
    for service in slurmd slurmctld slurmdbd; do end "$D/$service.pid"; done
    wait_for 20 free 6819
    end "$D/mysql/pid"
    if [ -e "$D/own_munged" ]; then end /run/munge/munged.pid && rm "$D/own_munged"; fi
    wait_for 20 free $MYSQL_PORT
    return 1
}

# --- what to do -----------------------------------------------------------------------------------------
action=${1:-}
shift
[ $# -gt 0 ] || set -- slurm sshd postgres rabbitmq
failed=0
for service in "$@"; do
    case "$service" in slurm | sshd | postgres | rabbitmq) ;; *) echo "'$service' is none of slurm, sshd, postgres, rabbitmq"; exit 2 ;; esac
    case "$action" in
    start)
        if ! "${service}_up"; then
            rm -f "$ROOT/$service.reason"
            "start_$service"
        fi
        ;;
    stop)
        "stop_$service"
        because "$service" "it was stopped"
        continue
        ;;
    status) ;;
    *) sed -n '2,/^set/s/^# \{0,1\}//p' "$0"; exit 2 ;;
    esac
    if "${service}_up"; then
        echo "$service: runs"
    else
        echo "$service: does not run ($(cat "$ROOT/$service.reason" 2>/dev/null || echo "tools/services.sh start $service"))"
        failed=1
    fi
done
[ "$action" != status ] || exit $failed
exit 0
