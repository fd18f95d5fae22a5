// A libkrun that holds its caller to the contract of include/libkrun.h and plays
// the guest itself: krun_start_enter has a program run on the descriptors that it was
// given, by a process that was made before the caller sealed its own. The tests build it with gcc; -DWITHOUT_name leaves a function out.
//
// It is configured by a file beside it, NAME.so.conf, of lines:
//
//	log PATH            append a line to PATH for every call
//	guest PATH          the program that is the guest: see hvtest.Machine
//	fail FUNCTION N     that function returns -N
//	feature BIT N       krun_has_feature(BIT) returns N
//	die FUNCTION        the process is killed in that function
//	hang 1              krun_start_enter hangs, with no guest
//
// What breaks the contract is logged as a line that begins with VIOLATION, and the
// call fails.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#define MAX 16

static char log_path[4096], guest_path[4096];
static char fail_name[64], die_name[64];
static int fail_errno, features[32], hang;

// What the context holds.
static struct {
	bool exists, started, configured, vsock_off, vsock_explicit, console_off, init_off, exec, kernel;
	int net, ports, vsocks;
	int net_fd, tty_fd, port_in[MAX], port_out[MAX];
	char port_name[MAX][64], vsock_path[MAX][256];
	char boot[4096], root[4096], words[4096];
	uint8_t mac[6];
	pid_t thread; // that made it
} ctx = {.net_fd = -1, .tty_fd = -1};

static void record(const char *format, ...) {
	FILE *f = log_path[0] ? fopen(log_path, "a") : NULL;
	if (!f) return;
	va_list args;
	va_start(args, format);
	vfprintf(f, format, args);
	va_end(args);
	fputc('\n', f);
	fclose(f);
}

__attribute__((constructor)) static void configure(void) {
	Dl_info info;
	char path[4200], line[8192];
	int n, m;
	for (n = 0; n < 32; n++) features[n] = -EINVAL;
	if (!dladdr(configure, &info)) return;
	snprintf(path, sizeof path, "%s.conf", info.dli_fname);
	FILE *f = fopen(path, "r");
	if (!f) return;
	while (fgets(line, sizeof line, f)) {
		if (sscanf(line, "log %4095s", log_path) == 1) continue;
		if (sscanf(line, "guest %4095s", guest_path) == 1) continue;
		if (sscanf(line, "fail %63s %d", fail_name, &fail_errno) == 2) continue;
		if (sscanf(line, "die %63s", die_name) == 1) continue;
		if (sscanf(line, "hang %d", &hang) == 1) continue;
		if (sscanf(line, "feature %d %d", &n, &m) == 2) features[n] = m;
	}
	fclose(f);
}

static int violation(const char *what) {
	record("VIOLATION %s", what);
	return -EINVAL;
}

// ENTER is the beginning of every function: the call is recorded before it can
// fail.
#define ENTER(name, ...) \
	do { \
		record(#name __VA_ARGS__); \
		if (!strcmp(die_name, #name)) kill(getpid(), SIGKILL); \
		if (!strcmp(fail_name, #name)) return -fail_errno; \
	} while (0)

// CONTEXT is that of functions which take a context.
#define CONTEXT(id) \
	do { \
		if (!ctx.exists || (id) != 0) return violation("no such context"); \
		if (ctx.started) return violation("the context is consumed"); \
		if (gettid() != ctx.thread) return violation("called by another thread"); \
	} while (0)

// is_open reports whether a descriptor is open and none of the standard files.
static bool is_open(int fd) { return fd > 2 && fcntl(fd, F_GETFD) >= 0; }

static int socket_type(int fd) {
	int type = 0;
	socklen_t len = sizeof type;
	return getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &len) ? -1 : type;
}

static bool is_directory(const char *path) {
	struct stat st;
	return path && path[0] == '/' && !stat(path, &st) && S_ISDIR(st.st_mode);
}

#ifndef WITHOUT_krun_has_feature
int32_t krun_has_feature(uint64_t bit) {
	ENTER(krun_has_feature, " %lu", (unsigned long)bit);
	return bit < 32 ? features[bit] : -EINVAL;
}
#endif

#ifndef WITHOUT_krun_init_log
int32_t krun_init_log(int fd, uint32_t level, uint32_t style, uint32_t options) {
	ENTER(krun_init_log, " %d %u %u %u", fd, level, style, options);
	if (ctx.exists) return violation("log after the context");
	if (fcntl(fd, F_GETFD) < 0 || level > 5 || style > 2 || options > 1) return -EINVAL;
	return 0;
}
#endif

#ifndef WITHOUT_krun_set_log_level
int32_t krun_set_log_level(uint32_t level) {
	ENTER(krun_set_log_level, " %u", level);
	return level > 5 ? -EINVAL : 0;
}
#endif

static void make_guest(void);

#ifndef WITHOUT_krun_create_ctx
int32_t krun_create_ctx(void) {
	ENTER(krun_create_ctx, "%s", "");
	if (ctx.exists) return violation("a second context");
	make_guest();
	ctx.exists = true;
	ctx.thread = gettid();
	return 0;
}
#endif

#ifndef WITHOUT_krun_get_max_vcpus
int32_t krun_get_max_vcpus(void) {
	ENTER(krun_get_max_vcpus, "%s", "");
	return 8;
}
#endif

#ifndef WITHOUT_krun_set_vm_config
int32_t krun_set_vm_config(uint32_t id, uint8_t cpus, uint32_t mib) {
	ENTER(krun_set_vm_config, " %u %u", cpus, mib);
	CONTEXT(id);
	ctx.configured = true;
	return cpus == 0 || mib < 64 ? -EINVAL : 0;
}
#endif

#ifndef WITHOUT_krun_disable_implicit_vsock
int32_t krun_disable_implicit_vsock(uint32_t id) {
	ENTER(krun_disable_implicit_vsock, "%s", "");
	CONTEXT(id);
	ctx.vsock_off = true;
	return 0;
}
#endif

#ifndef WITHOUT_krun_disable_implicit_console
int32_t krun_disable_implicit_console(uint32_t id) {
	ENTER(krun_disable_implicit_console, "%s", "");
	CONTEXT(id);
	ctx.console_off = true;
	return 0;
}
#endif

#ifndef WITHOUT_krun_disable_implicit_init
int32_t krun_disable_implicit_init(uint32_t id) {
	ENTER(krun_disable_implicit_init, "%s", "");
	CONTEXT(id);
	if (ctx.boot[0]) return violation("init is switched off after the root was given");
	ctx.init_off = true;
	return 0;
}
#endif

#ifndef WITHOUT_krun_add_vsock
int32_t krun_add_vsock(uint32_t id, uint32_t tsi) {
	ENTER(krun_add_vsock, " %u", tsi);
	CONTEXT(id);
	if (!ctx.vsock_off) return violation("a vsock beside the implicit one");
	ctx.vsock_explicit = true;
	return tsi ? violation("TSI is on") : 0;
}
#endif

#ifndef WITHOUT_krun_add_vsock_port
int32_t krun_add_vsock_port(uint32_t id, uint32_t port, const char *path) {
	ENTER(krun_add_vsock_port, " %u %s", port, path);
	CONTEXT(id);
	if (ctx.vsock_off && !ctx.vsock_explicit) return -ENODEV; // as libkrun
	struct stat st;
	if (stat(path, &st) || !S_ISSOCK(st.st_mode)) return violation("nobody listens for vsock");
	snprintf(ctx.vsock_path[ctx.vsocks++], 256, "%s", path);
	return 0;
}
#endif

#ifndef WITHOUT_krun_set_root
int32_t krun_set_root(uint32_t id, const char *path) {
	ENTER(krun_set_root, " %s", path);
	CONTEXT(id);
	if (!is_directory(path)) return violation("root is no directory");
	snprintf(ctx.boot, sizeof ctx.boot, "%s", path);
	return 0;
}
#endif

#ifndef WITHOUT_krun_add_virtiofs3
int32_t krun_add_virtiofs3(uint32_t id, const char *tag, const char *path, uint64_t shm, bool ro) {
	ENTER(krun_add_virtiofs3, " %s %s %lu %d", tag, path, (unsigned long)shm, ro);
	CONTEXT(id);
	if (!is_directory(path)) return violation("no such directory");
	if (!ro) return violation("a directory that the guest can write to");
	char *to = strcmp(tag, "/dev/root") ? ctx.root : ctx.boot;
	if (to[0]) return violation("the same tag twice");
	snprintf(to, 4096, "%s", path);
	return 0;
}
#endif

#ifndef WITHOUT_krun_add_disk
int32_t krun_add_disk(uint32_t id, const char *name, const char *path, bool ro) {
	ENTER(krun_add_disk, " %s %s %d", name, path, ro);
	CONTEXT(id);
	return access(path, ro ? R_OK : R_OK | W_OK) ? -errno : 0;
}
#endif

#ifndef WITHOUT_krun_set_kernel
int32_t krun_set_kernel(uint32_t id, const char *path, uint32_t format, const char *initrd, const char *line) {
	ENTER(krun_set_kernel, " %s %u %s %s", path, format, initrd ? initrd : "NULL", line);
	CONTEXT(id);
	ctx.kernel = true;
	snprintf(ctx.words, sizeof ctx.words, "%s", line);
	return access(path, R_OK) ? -errno : 0;
}
#endif

#ifndef WITHOUT_krun_append_kernel_cmdline
int32_t krun_append_kernel_cmdline(uint32_t id, const char *word) {
	ENTER(krun_append_kernel_cmdline, " %s", word);
	CONTEXT(id);
	size_t n = strlen(ctx.words);
	snprintf(ctx.words + n, sizeof ctx.words - n, "%s ", word);
	return 0;
}
#endif

#ifndef WITHOUT_krun_set_exec
int32_t krun_set_exec(uint32_t id, const char *path, const char *const *argv, const char *const *envp) {
	char line[4096] = "";
	size_t n = 0;
	if (!argv || !envp) return violation("no argv or envp: the host's would be taken");
	for (; *envp; envp++) n += snprintf(line + n, sizeof line - n, "\"%s\" ", *envp);
	ENTER(krun_set_exec, " %s %s%s", path, argv[0] ? "arguments " : "", line);
	CONTEXT(id);
	ctx.exec = true;
	snprintf(ctx.words, sizeof ctx.words, "%s", line);
	return 0;
}
#endif

#ifndef WITHOUT_krun_add_net_unixstream
int32_t krun_add_net_unixstream(uint32_t id, const char *path, int fd, uint8_t *const mac, uint32_t features, uint32_t flags) {
	ENTER(krun_add_net_unixstream, " %02x:%02x:%02x:%02x:%02x:%02x %#x %#x", mac[0], mac[1], mac[2], mac[3], mac[4], mac[5], features, flags);
	CONTEXT(id);
	if (path) return violation("both path and descriptor");
	if (!is_open(fd) || socket_type(fd) != SOCK_STREAM) return violation("the card's descriptor is no stream");
	// It waits for the rest of a frame by MSG_WAITALL, and would spin.
	if (fcntl(fd, F_GETFL) & O_NONBLOCK) return violation("the card's descriptor doesn't block");
	if (features & ~0x5d83u) return -EINVAL; // as libkrun
	if (mac[0] & 1) return violation("a group's address");
	ctx.net++;
	ctx.net_fd = fd;
	memcpy(ctx.mac, mac, 6);
	return 0;
}
#endif

#ifndef WITHOUT_krun_add_virtio_console_multiport
int32_t krun_add_virtio_console_multiport(uint32_t id) {
	ENTER(krun_add_virtio_console_multiport, "%s", "");
	CONTEXT(id);
	if (!ctx.console_off) return violation("a console beside the implicit one");
	return 3; // an id that isn't the context's
}
#endif

#ifndef WITHOUT_krun_add_console_port_tty
int32_t krun_add_console_port_tty(uint32_t id, uint32_t console, const char *name, int fd) {
	ENTER(krun_add_console_port_tty, " %u %s", console, name);
	CONTEXT(id);
	if (console != 3) return -ENOENT;
	if (!is_open(fd) || !isatty(fd)) return violation("the console is no terminal");
	if (ctx.ports) return violation("the console isn't the first port");
	ctx.tty_fd = fd;
	return 0;
}
#endif

#ifndef WITHOUT_krun_add_console_port_inout
int32_t krun_add_console_port_inout(uint32_t id, uint32_t console, const char *name, int in, int out) {
	ENTER(krun_add_console_port_inout, " %u %s", console, name);
	CONTEXT(id);
	if (console != 3) return -ENOENT;
	if (!is_open(in) || !is_open(out)) return violation("a port's descriptor isn't open");
	snprintf(ctx.port_name[ctx.ports], 64, "%s", name);
	ctx.port_in[ctx.ports] = in;
	ctx.port_out[ctx.ports++] = out;
	return 0;
}
#endif

// connect_to returns a socket that is connected to path.
static int connect_to(const char *path) {
	struct sockaddr_un addr = {.sun_family = AF_UNIX};
	snprintf(addr.sun_path, sizeof addr.sun_path, "%s", path);
	int fd = socket(AF_UNIX, SOCK_STREAM, 0);
	return connect(fd, (struct sockaddr *)&addr, sizeof addr) ? -1 : fd;
}

// away returns another descriptor of fd, which none of the guest's own overwrites.
static int away(int fd) { return fd < 0 ? fd : fcntl(fd, F_DUPFD_CLOEXEC, 64); }

// give makes fd the guest's descriptor n; -1 leaves n closed.
static void give(int fd, int n) {
	if (fd < 0) close(n);
	else dup2(fd, n);
}

// guest becomes the guest: agent 10, status 11, console 12, card 13.
static void guest(int agent, int status) {
	char mac[32], root[4200], words[4200];
	int from[] = {away(agent), away(status), away(ctx.tty_fd), away(ctx.net_fd)};
	for (int i = 0; i < 4; i++) give(from[i], 10 + i);
	snprintf(mac, sizeof mac, "MAC=%02x:%02x:%02x:%02x:%02x:%02x", ctx.mac[0], ctx.mac[1], ctx.mac[2], ctx.mac[3], ctx.mac[4], ctx.mac[5]);
	snprintf(root, sizeof root, "ROOT=%s", ctx.root);
	snprintf(words, sizeof words, "WORDS=%s", ctx.words);
	// Which of the descriptors there are, by number.
	char *argv[] = {"hvtest-machine", "10", "11", "-", "-", NULL};
	if (ctx.tty_fd >= 0) argv[3] = "12";
	if (ctx.net_fd >= 0) argv[4] = "13";
	char *envp[] = {mac, root, words, NULL};
	execve(guest_path, argv, envp);
	_exit(127);
}

static int guest_socket = -1; // to the process that becomes the guest
static pid_t guest_pid;

// A start is what that process is told: the context, and two descriptors.
union fds { struct cmsghdr header; char room[CMSG_SPACE(2 * sizeof(int))]; };

static struct msghdr start_message(struct iovec *context, union fds *fds) {
	*context = (struct iovec){&ctx, sizeof ctx};
	return (struct msghdr){.msg_iov = context, .msg_iovlen = 1, .msg_control = fds, .msg_controllen = sizeof *fds};
}

// make_guest makes the process that becomes the guest once it is told the context.
static void make_guest(void) {
	int ends[2];
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends)) return;
	pid_t parent = getpid();
	guest_pid = fork();
	if (guest_pid != 0) {
		close(ends[1]);
		guest_socket = ends[0];
		return;
	}
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (getppid() != parent) _exit(1);
	close(ends[0]);
	struct iovec context;
	union fds fds;
	struct msghdr message = start_message(&context, &fds);
	if (recvmsg(ends[1], &message, 0) != sizeof ctx || message.msg_controllen != sizeof fds) _exit(0);
	int *got = (int *)CMSG_DATA(&fds.header);
	guest(got[0], got[1]);
}

// start_guest starts it.
static int start_guest(int agent, int status) {
	struct iovec context;
	union fds fds = {.header = {.cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS, .cmsg_len = CMSG_LEN(2 * sizeof(int))}};
	memcpy(CMSG_DATA(&fds.header), (int[]){agent, status}, 2 * sizeof(int));
	struct msghdr message = start_message(&context, &fds);
	return sendmsg(guest_socket, &message, 0) < 0 ? -errno : 0;
}

// can_connect reports whether this process could carry a guest's connections.
static bool can_connect(void) {
	int families[] = {AF_INET, AF_INET6, AF_UNIX};
	for (int i = 0; i < 3; i++) {
		int fd = socket(families[i], SOCK_STREAM, 0);
		if (fd >= 0) {
			close(fd);
			return true;
		}
	}
	return false;
}

#ifndef WITHOUT_krun_start_enter
int32_t krun_start_enter(uint32_t id) {
	ENTER(krun_start_enter, "%s", "");
	CONTEXT(id);
	ctx.started = true;
	prctl(PR_SET_NAME, "libkrun VM");
	if (!ctx.configured) return violation("no vm_config");
	if (!ctx.boot[0]) return violation("no root");
	char process1[4200];
	snprintf(process1, sizeof process1, "%s/sluice:machine", ctx.boot);
	if (access(process1, X_OK)) return violation("no process 1 in the root");
	if (!ctx.words[0]) return violation("process 1 isn't told what to do");
	if (!ctx.net && !ctx.vsock_off) return violation("TSI: no card, and the implicit vsock");
	if (ctx.net > 1) return violation("more than one card");
	if (ctx.net && (!is_open(ctx.net_fd) || socket_type(ctx.net_fd) != SOCK_STREAM)) return violation("the card was closed");
	int agent = -1, status = -1;
	for (int i = 0; i < ctx.ports; i++) {
		if (!is_open(ctx.port_in[i]) || !is_open(ctx.port_out[i])) return violation("a port was closed");
		if (!strcmp(ctx.port_name[i], "sluice.agent")) agent = ctx.port_in[i];
		if (!strcmp(ctx.port_name[i], "sluice.status")) status = ctx.port_in[i];
	}
	if (ctx.ports && !is_open(ctx.tty_fd)) return violation("the console was closed");
	if (!ctx.vsocks && can_connect()) return violation("the process isn't sealed");
	if (hang) pause();
	for (int i = 0; i < ctx.vsocks; i++) *(i ? &status : &agent) = connect_to(ctx.vsock_path[i]);
	if (agent < 0 || status < 0) return violation("no way to the agent");
	fprintf(stderr, "[WARN krun] the guest starts\n");
	int failed = start_guest(agent, status);
	if (failed) return failed;
	int how;
	while (waitpid(guest_pid, &how, 0) < 0) {
		if (errno != EINTR) _exit(125);
	}
	if (can_connect()) violation("the process wasn't sealed while the guest ran");
	record("exit %d", how);
	_exit(WIFEXITED(how) ? WEXITSTATUS(how) : 128 + WTERMSIG(how));
}
#endif
