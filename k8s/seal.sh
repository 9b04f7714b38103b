#!/usr/bin/env bash
# Makes the secrets of one environment and seals them, so that only its cluster can open them; see --help.
set -euo pipefail
umask 077

usage() {
  cat <<'WORDS'
k8s/seal.sh dev|staging|prod [--cert FILE]

Fills the templates in k8s/secrets/ and writes k8s/overlays/ENVIRONMENT/sealed/, which the overlay includes.
A random value is made where no variable gives one. What is sealed already is kept: to change a secret, remove its file.

  --cert FILE   the cluster's certificate (kubeseal --fetch-cert); without it the cluster is asked

  ADMIN_TOKEN VISITOR_SECRET REDIS_PASSWORD ES_PASSWORD   values to use instead of random ones
  TLS_CERT TLS_KEY                                        files; without them shortener-tls is left to others to make

Needs kubeseal. The values are shown nowhere; later:
  kubectl get secret url-shortener-keys -n url-shortener-ENVIRONMENT -o go-template='{{.data.ADMIN_TOKEN | base64decode}}'
WORDS
}

fail() {
  echo "seal.sh: $1" >&2
  exit 1
}

# The value that a placeholder stands for, exactly, without a line end of its own.
value_of() {
  local kind=$1 word=$2
  case $kind in
    word) printf %s "$word" ;;
    file) cat -- "${!word}" ;;
    random)
      if [[ -n ${!word:-} ]]; then
        printf %s "${!word}"
      else
        head -c 24 /dev/urandom | base64 | tr '+/' '-_' | tr -d '\n'
      fi
      ;;
    *) fail "a template has a placeholder of an unknown kind: $kind" ;;
  esac
}

seal() {
  local template=$1 name=$2 line sealed
  while IFS= read -r line; do
    if [[ $line =~ ^(\ +[A-Za-z_.]+:)\ \"\<([a-z]+)\ ([A-Za-z_]+)\>\"$ ]]; then
      local head=${BASH_REMATCH[1]} kind=${BASH_REMATCH[2]} word=${BASH_REMATCH[3]}
      sealed=$(value_of "$kind" "$word" | kubeseal --raw --scope strict --namespace "$namespace" --name "$name" \
        --from-file=/dev/stdin "${certificate[@]}")
      [[ -n $sealed ]] || fail "kubeseal sealed nothing for $name"
      line="$head $sealed"
    fi
    printf '%s\n' "$line"
  done <"$template"
}

environment="" certificate=()
while (($#)); do
  case $1 in
    -h | --help) usage && exit ;;
    --cert)
      (($# > 1)) || fail "--cert: a file is missing"
      certificate=(--cert "$2") && shift
      ;;
    dev | staging | prod) environment=$1 ;;
    *) fail "$1: unknown; try --help" ;;
  esac
  shift
done
[[ -n $environment ]] || fail "which environment? dev, staging or prod; try --help"
command -v kubeseal >/dev/null || fail "kubeseal is needed: https://github.com/bitnami-labs/sealed-secrets/releases"
[[ -z ${TLS_CERT:-} && -z ${TLS_KEY:-} || -r ${TLS_CERT:-} && -r ${TLS_KEY:-} ]] || fail "TLS_CERT and TLS_KEY must both name files that can be read"

here=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
namespace=url-shortener-$environment # a sealed secret opens under this name only
folder=$here/overlays/$environment/sealed
unfinished=$(mktemp)
trap 'rm -f -- "$unfinished"' EXIT

for template in "$here"/secrets/*.yaml; do
  name=$(basename -- "$template" .yaml)
  if [[ -e $folder/$name.yaml ]]; then
    echo "kept     $name"
  elif [[ $name == shortener-tls && -z ${TLS_CERT:-} ]]; then
    echo "left out $name: set TLS_CERT and TLS_KEY, or have cert-manager make it"
  else
    seal "$template" "$name" >"$unfinished"
    install -m 644 -- "$unfinished" "$folder/$name.yaml"
    echo "sealed   $name"
  fi
done

# The overlay includes whatever is there now.
{
  sed '/^resources:/,$d' "$folder/kustomization.yaml"
  echo "resources:"
  for sealed in "$folder"/*.yaml; do
    [[ $(basename -- "$sealed") == kustomization.yaml ]] || echo "  - $(basename -- "$sealed")"
  done
} >"$unfinished"
install -m 644 -- "$unfinished" "$folder/kustomization.yaml"
