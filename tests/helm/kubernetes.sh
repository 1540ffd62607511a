#!/usr/bin/env bash
# Builds a Kubernetes into DEST, of the last sources of it that Debian has whole (1.20.2), and unpacks what it needs beside
# it: tests/helm/kubernetes.sh DEST. It takes some minutes and 5 GB under DEST while it does. Only what a node and its
# control plane are; for tests of the chart (kubernetes.py, test_kubernetes.py).
set -euo pipefail

dest=$(mkdir -p "${1:-.tools/kubernetes}" && cd "${1:-.tools/kubernetes}" && pwd)
if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
  echo "kubernetes.sh: a Kubernetes for tests is built and started by root on Debian only; its tests will be skipped" >&2
  exit 0
fi
unpack="$(dirname "$0")/../../deploy/debian/unpack.sh"
work=$dest/build
trap 'chmod -R u+w "$work" 2>/dev/null; rm -rf "$work"' EXIT
echo "fetching Kubernetes' sources, a Go to build them, and a name server"
SUITE=bookworm "$unpack" "$dest" kubernetes-client dnsmasq-base conntrack libnetfilter-conntrack3 libnfnetlink0 \
  libmnl0 libnftables1 libnftnl11 libxtables12 libjansson4 libdbus-1-3 libsystemd0 libcap2 libgcrypt20 libgpg-error0 \
  liblz4-1 libzstd1 liblzma5 libidn2-0 libunistring2 libnettle8 libhogweed6 libgmp10
SUITE=bookworm "$unpack" "$work" golang-1.19-go golang-1.19-src source:kubernetes

# As its own build does it: the tree is older than what modules ask of it now.
source=$work/go/src/k8s.io/kubernetes
mkdir -p "$(dirname "$source")"
mv "$work/kubernetes" "$source"
export GOROOT=$work/usr/lib/go-1.19
# Debian's links lead to where it would be installed.
for part in api lib misc pkg src test; do
  [ ! -e "$work/usr/share/go-1.19/$part" ] || ln -sfn "../../share/go-1.19/$part" "$GOROOT/$part"
done
export PATH=$GOROOT/bin:$PATH GOPATH=$work/go GOCACHE=$work/cache GO111MODULE=off GOPROXY=off CGO_ENABLED=0
cd "$source"
# A pause must not be what is killed first; where root may not say so, as in some sandboxes, no container starts.
sed -i 's/\(defaultSandboxOOMAdj int =\) -998/\1 0/' pkg/kubelet/dockershim/docker_sandbox.go

echo "generating what its sources leave out"
packages=$(grep -rl --include='*.go' '+k8s:openapi-gen=' pkg staging/src \
  | grep -v -e '_test\.go$' -e code-generator -e sample- | xargs -n 1 dirname | sort -u \
  | sed -e 's#^staging/src/#k8s.io/kubernetes/vendor/#' -e 's#^pkg/#k8s.io/kubernetes/pkg/#' | paste -sd,)
go run ./vendor/k8s.io/kube-openapi/cmd/openapi-gen --input-dirs "$packages" --output-base "$work/generated" \
  --output-package k8s.io/kubernetes/pkg/generated/openapi --output-file-base zz_generated.openapi \
  --go-header-file vendor/k8s.io/code-generator/hack/boilerplate.go.txt --report-filename "$work/report"
cp "$work/generated/k8s.io/kubernetes/pkg/generated/openapi/zz_generated.openapi.go" pkg/generated/openapi/

echo "building it"
mkdir -p "$dest/bin"
flags="-s -w"
for place in client-go/pkg component-base; do
  version=k8s.io/kubernetes/vendor/k8s.io/$place/version
  flags="$flags -X $version.gitVersion=v1.20.2 -X $version.gitMajor=1 -X $version.gitMinor=20"
done
go build -ldflags "$flags" -o "$dest/bin/" \
  ./cmd/kube-apiserver ./cmd/kube-controller-manager ./cmd/kube-scheduler ./cmd/kubelet ./cmd/kube-proxy
cc -static -Os -o "$dest/bin/pause" build/pause/linux/pause.c
"$dest/bin/kubelet" --version
