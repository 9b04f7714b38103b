#!/usr/bin/env bash
# install-operators.sh [--dry-run] [--help]
#
# Brings a cluster to where `kubectl apply -k k8s/overlays/prod` works: the operators that docs/infrastructure.md lists,
# and the two prerequisites that they or the Ingress need. Run it again at any time: what is there stays, or is brought
# to the version named here. It works on the cluster that kubectl's current context names.
#
#   --dry-run   print every command in order, run none, ask no cluster
#   --help      this text
#
# Environment:
#   TIMEOUT     how long to wait for each component (default 10m)
#
# What it cannot do for you: the nodes of Longhorn need open-iscsi (iscsid running), and there should be three of them.

set -euo pipefail

# --- Versions. docs/end-of-life.md says which of them have no successor, and the way out.
cert_manager=v1.21.1
longhorn=1.12.1
cloudnative_pg=0.29.0 # the operator is 1.30.0
redis_operator=3.2.9  # the operator is 1.2.4; 3.3.0 of the chart asks for an image that does not exist
rabbitmq=v2.22.3      # needs cert-manager
sealed_secrets=2.18.4 # 0.36.1
jaeger_chart=2.57.0
jaeger=1.62.0 # newer than the chart's own
ingress_nginx=4.15.1

timeout=${TIMEOUT:-10m}
dry_run=no

say() { printf '%s\n' "$*"; }
stop() {
    printf 'install-operators: %s\n' "$*" >&2
    exit 1
}
usage() { sed -n '2,/^$/s/^# \{0,1\}//p' "$0"; }

for word in "$@"; do
    case $word in
    --dry-run) dry_run=yes ;;
    --help | -h) usage && exit ;;
    *) stop "unknown: $word. Known: --dry-run, --help" ;;
    esac
done

[[ $timeout =~ ^[0-9]+[smh]$ ]] || stop "TIMEOUT=$timeout is not a time as 90s, 10m or 1h"

# --- How things are done

run() {
    if [ $dry_run = yes ]; then
        printf ' '
        printf ' %q' "$@"
        printf '\n'
    else
        "$@" || stop "failed: $*"
    fi
}

begin() { say "$1 → namespace $2"; }

# chart RELEASE NAMESPACE REPOSITORY CHART VERSION [SETTING…]
chart() {
    local release=$1 namespace=$2 repository=$3 name=$4 version=$5 setting settings=()
    shift 5
    for setting in "$@"; do settings+=(--set "$setting"); done
    run helm upgrade --install "$release" "$name" --repo "$repository" --version "$version" \
        --namespace "$namespace" --create-namespace --wait --timeout "$timeout" "${settings[@]}"
}

# Server-side: three of these definitions are too large for the annotation that a client-side apply leaves.
apply() { run kubectl apply --server-side --force-conflicts --filename "$1"; }

defined() {
    local name names=()
    for name in "$@"; do names+=("crd/$name"); done
    run kubectl wait --for=condition=Established --timeout="$timeout" "${names[@]}"
}

rolled_out() { run kubectl --namespace "$1" rollout status "deployment/$2" --timeout="$timeout"; }

# A Deployment is ready some moments before the API server reaches its webhook. Nothing is made by asking, and a refusal
# is an answer too.
answers() {
    local what=$1 tries=60
    say "  # until the webhook of $what answers:"
    if [ $dry_run = yes ]; then
        say "  kubectl create --dry-run=server --filename - # an empty $what"
        return
    fi
    until probe "$what"; do
        tries=$((tries - 1))
        [ $tries -gt 0 ] || stop "the webhook of $what does not answer: $(cat "$answer")"
        sleep 2
    done
}

probe() {
    local kind=${1%%/*} version=${1#*/}
    printf 'apiVersion: %s\nkind: %s\nmetadata: {name: install-operators-asks, namespace: default}\nspec: {}\n' \
        "$version" "$kind" | kubectl create --dry-run=server --filename - >"$answer" 2>&1 && return
    ! grep -q 'failed calling webhook' "$answer" && grep -qE 'denied the request|is invalid' "$answer"
}

require() { command -v "$1" >/dev/null || stop "$1 is missing: $2"; }

# --- Before anything is changed

if [ $dry_run = no ]; then
    require kubectl 'https://kubernetes.io/docs/tasks/tools/'
    require helm 'version 3.8 or newer, https://helm.sh/docs/intro/install/'
    kubectl version --request-timeout=10s >/dev/null 2>&1 ||
        stop "kubectl reaches no cluster. Its context: $(kubectl config current-context 2>/dev/null || echo none)"
    answer=$(mktemp)
    trap 'rm -f "$answer"' EXIT
    say "Installing on $(kubectl config current-context)"
else
    say 'The plan. Nothing is run.'
fi

# --- Prerequisites that the specification does not name

begin "cert-manager $cert_manager (RabbitMQ's and Jaeger's operators have their certificates from it)" cert-manager
chart cert-manager cert-manager https://charts.jetstack.io cert-manager $cert_manager crds.enabled=true
rolled_out cert-manager cert-manager-webhook

# --- Operators

# The class `longhorn` is cluster-wide and cannot be changed, so it has one owner: this chart. A pod of a dead node must be
# let go of, or its volume stays locked.
begin "Longhorn $longhorn" longhorn-system
chart longhorn longhorn-system https://charts.longhorn.io longhorn $longhorn \
    persistence.defaultClassReplicaCount=3 \
    persistence.defaultDataLocality=best-effort \
    defaultSettings.replicaSoftAntiAffinity=false \
    defaultSettings.nodeDownPodDeletionPolicy=delete-both-statefulset-and-deployment-pod

# Two of it on two nodes: with the operator on a node that died, a failover waits for the operator.
begin "CloudNativePG, chart $cloudnative_pg" cnpg-system
chart cnpg cnpg-system https://cloudnative-pg.github.io/charts cloudnative-pg $cloudnative_pg replicaCount=2
defined clusters.postgresql.cnpg.io poolers.postgresql.cnpg.io scheduledbackups.postgresql.cnpg.io
rolled_out cnpg-system cnpg-cloudnative-pg
answers Cluster/postgresql.cnpg.io/v1

# Helm installs a chart's definitions once and never again; this one's is therefore applied by hand, as Jaeger's.
begin "Redis operator (Spotahome), chart $redis_operator" redis-operator
apply "https://raw.githubusercontent.com/spotahome/redis-operator/Chart-$redis_operator/charts/redisoperator/crds/databases.spotahome.com_redisfailovers.yaml"
defined redisfailovers.databases.spotahome.com
chart redis-operator redis-operator https://spotahome.github.io/redis-operator redis-operator $redis_operator \
    image.tag=v1.2.4
rolled_out redis-operator redis-operator

begin "RabbitMQ cluster operator $rabbitmq" rabbitmq-system
apply "https://github.com/rabbitmq/cluster-operator/releases/download/$rabbitmq/cluster-operator.yml"
defined rabbitmqclusters.rabbitmq.com
rolled_out rabbitmq-system rabbitmq-cluster-operator
answers RabbitmqCluster/rabbitmq.com/v1beta1

begin "SealedSecrets, chart $sealed_secrets" kube-system
chart sealed-secrets kube-system https://bitnami-labs.github.io/sealed-secrets sealed-secrets $sealed_secrets \
    fullnameOverride=sealed-secrets-controller # where kubeseal looks for it
defined sealedsecrets.bitnami.com
rolled_out kube-system sealed-secrets-controller

begin "Jaeger operator $jaeger" observability
apply "https://raw.githubusercontent.com/jaegertracing/jaeger-operator/v$jaeger/config/crd/bases/jaegertracing.io_jaegers.yaml"
defined jaegers.jaegertracing.io
chart jaeger-operator observability https://jaegertracing.github.io/helm-charts jaeger-operator $jaeger_chart \
    image.tag=$jaeger rbac.clusterRole=true
rolled_out observability jaeger-operator
answers Jaeger/jaegertracing.io/v1

# --- The Ingress controller, unless the cluster has one already

if [ $dry_run = no ] && [ "$(kubectl get ingressclass nginx --ignore-not-found --output name)" ] &&
    ! helm status ingress-nginx --namespace ingress-nginx >/dev/null 2>&1; then
    say 'An IngressClass nginx is here already, not from this script: left alone (docs/deployment.md says what it needs)'
else
    # Local: services see the visitor's address, not a node's. The header: an id of the edge's own for each request, the
    # same at a second try, so that a click is counted once; X-Request-ID may be the visitor's, and says nothing.
    begin "ingress-nginx, chart $ingress_nginx" ingress-nginx
    # shellcheck disable=SC2016  # nginx' variable, not the shell's
    chart ingress-nginx ingress-nginx https://kubernetes.github.io/ingress-nginx ingress-nginx $ingress_nginx \
        controller.replicaCount=2 \
        controller.service.externalTrafficPolicy=Local \
        controller.config.use-forwarded-headers=false \
        'controller.proxySetHeaders.X-Edge-Request-Id=$request_id'
    rolled_out ingress-nginx ingress-nginx-controller
fi

say 'Done. Next: docs/deployment.md.'
