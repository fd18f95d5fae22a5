// Package image turns an OCI image into a directory that can be a guest's root:
// fetched from a registry, an OCI layout or an archive, verified, unpacked, and
// kept in a cache that all processes of a user share.
//
// Call [Open], then [Store.Pull]; the [Image] it returns is held in the cache
// until its Close.
//
//	registry ─┐            verified        layers applied, bottom first
//	layout   ─┼─► source ─► blobs/ ─► decompress ─► tree ─► disk ─► roots/ ─► Image
//	archive  ─┘  resolve    fetch      unpack       layer            acquire
//	             by platform
//
// # Theory of operation
//
// The cache is a directory of its user alone (mode 0700):
//
//	blobs/sha256/HEX   manifests, configurations, layers, as they came
//	names/HASH.json    what a name and a platform mean: the digest of a manifest
//	roots/HEX-OWNERS/  an unpacked image: root/, tree.tar.zst, info.json
//	tmp/               what is being written
//	lock               see below
//
// A blob is renamed into place when its digest is verified, a root when the
// digest and the diffID of each of its layers are, and its files are on the disk;
// a name is written last. So whatever has a name is whole, and a process that is
// killed leaves nothing but a directory in tmp, which the next one to write
// removes.
//
// Locks are those of open files, so they die with their holder. A root's lock is
// held shared by whoever uses the root, exclusively by whoever makes or removes
// it; the cache's is held shared while blobs come in that no name refers to yet,
// exclusively while such blobs are removed; each directory in tmp has a lock that
// tells it from a dead process's.
//
// A layer is applied to a tree in memory first, and the disk follows the tree. A
// path is resolved in the tree, where ".." stops at the root and a symbolic link
// leads nowhere else; the disk then sees single names, relative to an os.Root,
// and everything it makes must not have been there. Either alone would keep a
// hostile layer inside. Where the disk disagrees with the tree (a file system
// that takes "A" for "a"), unpacking fails.
//
// Whiteouts take away what lower layers have and nothing of their own layer,
// wherever they stand in it (see the [OCI rules for layers]).
//
// # What the root has, and what is only recorded
//
// The root is a shared lower directory: nobody may write to it. Device nodes are
// never made: whoever could reach the cache could open them, and one that is 0:0
// is a whiteout to overlayfs. Owners outside [Config.Owners], extended attributes
// other than file capabilities and users' own, and set-id bits of files that
// don't have their true owner, are not applied either. All of it is in
// tree.tar.zst, a tar of every header, and [Image.WriteTar] gives it back: what
// it writes is the same whoever unpacked the image, and is what a disk image is
// to be made from.
//
// # What it won't do
//
// It doesn't run images, make disk images, push, build or check signatures.
// Symbolic links below RootDir may lead anywhere when the host follows them: open
// its files through os.Root. On Windows, which lacks the locks, [Open] fails.
//
// [OCI rules for layers]: https://github.com/opencontainers/image-spec/blob/v1.1.1/layer.md#applying-changesets
package image
