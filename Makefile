# What this repository promises, one target each. make test and make demo are all
# that a new Debian or Ubuntu machine with Go needs.

GO          ?= go
STATICCHECK := honnef.co/go/tools/cmd/staticcheck@v0.8.2
FUZZTIME    ?= 20s

# Debian packages of the programs that tests and demo run; gcc is for -race.
TOOLS := iproute2 util-linux uidmap ca-certificates curl git iperf3 iputils-ping traceroute netcat-openbsd socat \
	bind9-dnsutils knot-dnsutils ldnsutils dnsmasq-base unbound isc-dhcp-client busybox-static tmux bash-completion zsh fish \
	nmap hping3 mtr-tiny wrk apache2-utils iptables dnsperf musl-tools gcc libc6-dev e2fsprogs \
	wget openssl gnutls-bin nghttp2-client python3-requests python3-pycurl python3-grpcio sslscan nodejs openssh-client openssh-server
# What a virtual machine takes on Debian. make test does without: a kernel is no
# small thing to install on somebody's machine.
MACHINE := qemu-system-x86 linux-image-cloud-amd64
# The peers that the bench compares with.
PEERS := slirp4netns passt

.PHONY: all build build-krun check test integration integration-krun integration-vz bench fuzz demo demo-vm tools peers machine

all: check test

build: # the commands, into bin/
	CGO_ENABLED=0 $(GO) build -o bin/ ./cmd/...

build-krun: # the command with libkrun as a backend, which takes a C compiler
	CGO_ENABLED=1 $(GO) build -o bin/sluice-krun ./cmd/sluice

check: # format, vet for three systems, static analysis
	@out=$$(gofmt -l .); [ -z "$$out" ] || { echo "gofmt -w these:"; echo "$$out"; exit 1; }
	for os in linux darwin windows; do CGO_ENABLED=0 GOOS=$$os $(GO) vet ./... || exit 1; done
	if command -v golangci-lint >/dev/null; then golangci-lint run ./...; else $(GO) run $(STATICCHECK) ./...; fi

test: tools # everything that needs no hypervisor, under the race detector
	$(GO) mod download
	$(GO) test -race -timeout 18m ./...

integration: tools # only the black-box tests, as they run
	$(GO) test -race -timeout 15m -v ./integration/...

integration-krun: tools # the conformance suite with this machine's libkrun, or what it would need
	CGO_ENABLED=1 $(GO) test -count=1 -v -run '^TestConformanceReal$$' ./hv/krun

integration-vz: # the conformance suite on a Mac, or what it would need
	$(GO) test -count=1 -v -run '^TestConformance$$' $(if $(filter Darwin,$(shell uname)),-exec '$(GO) run github.com/Code-Hex/vz/v3/cmd/codesign') ./hv/vz

bench: tools peers machine # one table, against slirp4netns, pasta and bare loopback
	$(GO) -C bench test -p 1 -timeout 60m . ./vm -table

fuzz: # every fuzz target for FUZZTIME
	@for pkg in $$($(GO) list ./...); do \
		for f in $$($(GO) test -list '^Fuzz' $$pkg | grep '^Fuzz'); do \
			echo "$$pkg $$f"; $(GO) test -run '^$$' -fuzz "^$$f$$" -fuzztime $(FUZZTIME) $$pkg || exit 1; \
		done; \
	done

demo: tools build # a sandbox fetches from this machine and is denied elsewhere
	$(GO) run ./integration/demo bin/sluice

demo-vm: tools machine build # the same in a virtual machine, emulated, from an image made here
	$(GO) run ./integration/demo -vm bin/sluice

tools:
	@$(call install,$(TOOLS))

peers:
	@$(call install,$(PEERS))

machine:
	@$(call install,$(MACHINE))

# install makes sure of Debian packages: as root by installing what is missing, else
# by printing the command.
define install
missing=; for p in $(1); do dpkg-query -W -f '$${Status}' $$p 2>/dev/null | grep -q ' installed' || missing="$$missing $$p"; done; \
if [ -n "$$missing" ] && [ $$(id -u) = 0 ]; then apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends $$missing; \
elif [ -n "$$missing" ]; then echo "first run: sudo apt-get install$$missing"; exit 1; fi
endef
