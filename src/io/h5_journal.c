#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include "base/hash.h"
#include "base/str.h"
#include "io/file.h"
#include "io/h5.h"
#include "io/h5_impl.h"

/* HDF5 writes into pages in memory; h5_journal_save brings them to the file. What lies behind the end of the saved file is simply
 * written; what changes saved bytes goes through a redo journal beside the file:
 *     magic[8] pages:u64 size:u64 sha256[32], then pages times {offset:u64, bytes[PAGE]}; the hash covers all but itself. */
enum { PAGE = 4096, JOURNAL_HEAD = 56, MAX_IOV = 256 };
static const char MAGIC[9] = "ATLJRNL1";

typedef struct {
    uint64_t number;
    uint8_t *data; /* NULL: free slot */
} Page;

struct H5Journal {
    H5FD_t base; /* first: HDF5 knows this part */
    int fd;
    dev_t device;
    ino_t inode;
    haddr_t eoa;
    uint64_t size;  /* of the file as HDF5 sees it */
    uint64_t saved; /* of the file on disk, all of it consistent */
    Page *page;     /* hash table, power of two */
    size_t cap, count;
    int journal;    /* descriptor, -1 until needed */
    int pending;    /* the journal is whole on disk and must reach the file before anything else */
    char *journal_path;
};

/* ---- pages in memory ---- */

static size_t slot_of(const H5Journal *j, uint64_t number)
{
    size_t i = (size_t)(number * 0x9E3779B97F4A7C15u >> 32) & (j->cap - 1);
    while (j->page[i].data && j->page[i].number != number)
        i = (i + 1) & (j->cap - 1);
    return i;
}

static int grow(H5Journal *j)
{
    if (2 * (j->count + 1) <= j->cap)
        return 0;
    Page *old = j->page;
    size_t n = j->cap;
    Page *more = calloc(n ? 2 * n : 1024, sizeof *more);
    if (!more)
        return -1;
    j->page = more;
    j->cap = n ? 2 * n : 1024;
    for (size_t i = 0; i < n; i++)
        if (old[i].data)
            j->page[slot_of(j, old[i].number)] = old[i];
    free(old);
    return 0;
}

/* Bytes of the saved file; zeros behind its end. */
static int read_file(const H5Journal *j, uint64_t at, uint8_t *to, size_t n)
{
    size_t have = at >= j->saved ? 0 : j->saved - at < n ? (size_t)(j->saved - at) : n;
    for (size_t got = 0; got < have;) {
        ssize_t k = pread(j->fd, to + got, have - got, (off_t)(at + got));
        if (k < 0 && errno == EINTR)
            continue;
        if (k <= 0)
            return -1;
        got += (size_t)k;
    }
    memset(to + have, 0, n - have);
    return 0;
}

/* The page, read from the file first where only a part of it is about to change. */
static uint8_t *take_page(H5Journal *j, uint64_t number, int whole)
{
    if (grow(j) < 0)
        return NULL;
    Page *p = &j->page[slot_of(j, number)];
    if (p->data)
        return p->data;
    uint8_t *data = malloc(PAGE);
    if (!data || (!whole && read_file(j, number * PAGE, data, PAGE) < 0)) {
        free(data);
        return NULL;
    }
    *p = (Page){number, data};
    j->count++;
    return data;
}

static void forget_pages(H5Journal *j)
{
    for (size_t i = 0; i < j->cap; i++)
        free(j->page[i].data);
    if (j->cap)
        memset(j->page, 0, j->cap * sizeof *j->page);
    j->count = 0;
}

/* ---- HDF5's side ---- */

static H5FD_t *vfd_open(const char *name, unsigned flags, hid_t fapl, haddr_t maxaddr)
{
    struct stat st;
    (void)fapl;
    (void)maxaddr;
    int fd = open(name, ((flags & H5F_ACC_RDWR) ? O_RDWR : O_RDONLY) | ((flags & H5F_ACC_CREAT) ? O_CREAT : 0) | O_CLOEXEC, 0666);
    H5Journal *j = fd >= 0 ? calloc(1, sizeof *j) : NULL;
    if (!j || fstat(fd, &st) < 0) {
        free(j);
        if (fd >= 0)
            close(fd);
        return NULL;
    }
    j->fd = fd;
    j->device = st.st_dev;
    j->inode = st.st_ino;
    j->journal = -1;
    j->size = j->saved = (flags & H5F_ACC_TRUNC) ? 0 : (uint64_t)st.st_size;
    return &j->base;
}

static herr_t vfd_close(H5FD_t *file)
{
    H5Journal *j = (H5Journal *)file;
    forget_pages(j);
    free(j->page);
    close(j->fd);
    if (j->journal >= 0) {
        close(j->journal);
        if (!j->pending)
            unlink(j->journal_path);
    }
    free(j->journal_path);
    free(j);
    return 0;
}

static int vfd_cmp(const H5FD_t *a, const H5FD_t *b)
{
    const H5Journal *x = (const H5Journal *)a, *y = (const H5Journal *)b;
    if (x->device != y->device)
        return x->device < y->device ? -1 : 1;
    return x->inode == y->inode ? 0 : x->inode < y->inode ? -1 : 1;
}

static herr_t vfd_query(const H5FD_t *file, unsigned long *flags)
{
    (void)file;
    *flags = H5FD_FEAT_AGGREGATE_METADATA | H5FD_FEAT_ACCUMULATE_METADATA | H5FD_FEAT_DATA_SIEVE | H5FD_FEAT_AGGREGATE_SMALLDATA |
             H5FD_FEAT_DEFAULT_VFD_COMPATIBLE;
    return 0;
}

static haddr_t vfd_get_eoa(const H5FD_t *file, H5FD_mem_t type)
{
    (void)type;
    return ((const H5Journal *)file)->eoa;
}

static herr_t vfd_set_eoa(H5FD_t *file, H5FD_mem_t type, haddr_t addr)
{
    (void)type;
    ((H5Journal *)file)->eoa = addr;
    return 0;
}

static haddr_t vfd_get_eof(const H5FD_t *file, H5FD_mem_t type)
{
    (void)type;
    return ((const H5Journal *)file)->size;
}

static herr_t vfd_get_handle(H5FD_t *file, hid_t fapl, void **handle)
{
    (void)fapl;
    *handle = file;
    return 0;
}

static herr_t vfd_read(H5FD_t *file, H5FD_mem_t type, hid_t dxpl, haddr_t addr, size_t size, void *buffer)
{
    H5Journal *j = (H5Journal *)file;
    uint8_t *to = buffer;
    (void)type;
    (void)dxpl;
    if (read_file(j, addr, to, size) < 0)
        return -1;
    for (uint64_t at = addr, end = addr + size; j->count && at < end;) {
        uint64_t number = at / PAGE, stop = (number + 1) * PAGE < end ? (number + 1) * PAGE : end;
        const Page *p = &j->page[slot_of(j, number)];
        if (p->data)
            memcpy(to + (at - addr), p->data + at % PAGE, (size_t)(stop - at));
        at = stop;
    }
    return 0;
}

static herr_t vfd_write(H5FD_t *file, H5FD_mem_t type, hid_t dxpl, haddr_t addr, size_t size, const void *buffer)
{
    H5Journal *j = (H5Journal *)file;
    const uint8_t *from = buffer;
    (void)type;
    (void)dxpl;
    for (uint64_t at = addr, end = addr + size; at < end;) {
        uint64_t number = at / PAGE, stop = (number + 1) * PAGE < end ? (number + 1) * PAGE : end;
        uint8_t *data = take_page(j, number, at % PAGE == 0 && stop - at == PAGE);
        if (!data)
            return -1;
        memcpy(data + at % PAGE, from + (at - addr), (size_t)(stop - at));
        at = stop;
    }
    if (addr + size > j->size)
        j->size = addr + size;
    return 0;
}

static herr_t vfd_truncate(H5FD_t *file, hid_t dxpl, hbool_t closing)
{
    H5Journal *j = (H5Journal *)file;
    (void)dxpl;
    (void)closing;
    j->size = j->eoa;
    return 0;
}

static const H5FD_class_t vfd_class = {.name = "atelier-journal",
                                       .maxaddr = ((haddr_t)1 << 62) - 1,
                                       .fc_degree = H5F_CLOSE_STRONG,
                                       .open = vfd_open,
                                       .close = vfd_close,
                                       .cmp = vfd_cmp,
                                       .query = vfd_query,
                                       .get_eoa = vfd_get_eoa,
                                       .set_eoa = vfd_set_eoa,
                                       .get_eof = vfd_get_eof,
                                       .get_handle = vfd_get_handle,
                                       .read = vfd_read,
                                       .write = vfd_write,
                                       .truncate = vfd_truncate,
                                       .fl_map = H5FD_FLMAP_DICHOTOMY};

int h5_journal_driver(hid_t *id, hid_t access)
{
    *id = H5FDregister(&vfd_class);
    return *id < 0 ? -1 : (int)H5Pset_driver(access, *id, NULL);
}

int h5_journal_of(H5Journal **out, const IoH5 *f)
{
    void *handle = NULL;
    if (H5Fget_vfd_handle(f->file, H5P_DEFAULT, &handle) < 0 || !handle)
        return h5_fail(ERR_IO, f, NULL, "no journal");
    *out = handle;
    return 0;
}

/* ---- saving ---- */

static int by_number(const void *a, const void *b)
{
    uint64_t x = ((const Page *)a)->number, y = ((const Page *)b)->number;
    return x < y ? -1 : x > y;
}

/* Neighbouring pages in one call each; the last one is cut at the end of the file. */
static int write_pages(const H5Journal *j, const Page *page, size_t n, const char *path)
{
    for (size_t i = 0; i < n;) {
        struct iovec v[MAX_IOV];
        uint64_t at = page[i].number * PAGE, want = 0;
        int k = 0;
        for (; i < n && k < MAX_IOV && page[i].number * PAGE == at + want && page[i].number * PAGE < j->size; i++) {
            uint64_t left = j->size - page[i].number * PAGE;
            v[k++] = (struct iovec){page[i].data, left < PAGE ? (size_t)left : PAGE};
            want += v[k - 1].iov_len;
        }
        if (!k)
            return 0; /* behind the end */
        ssize_t done = pwritev(j->fd, v, k, (off_t)at);
        if (done < 0 && errno != EINTR)
            return err_errno("%s: write", path);
        if (done >= 0 && (uint64_t)done == want)
            continue;
        for (int m = 0; m < k; m++) { /* cut short: piece by piece, which names the reason */
            const char *from = v[m].iov_base;
            for (size_t got = 0; got < v[m].iov_len;) {
                ssize_t w = pwrite(j->fd, from + got, v[m].iov_len - got, (off_t)(at + got));
                if (w < 0 && errno == EINTR)
                    continue;
                if (w < 0)
                    return err_errno("%s: write", path);
                got += (size_t)w;
            }
            at += v[m].iov_len;
        }
    }
    return 0;
}

static void put_u64(uint8_t *to, uint64_t v)
{
    for (int i = 0; i < 8; i++)
        to[i] = (uint8_t)(v >> 8 * i);
}

static uint64_t get_u64(const uint8_t *p)
{
    uint64_t v = 0;
    for (int i = 7; i >= 0; i--)
        v = v << 8 | p[i];
    return v;
}

static int journal_hash(uint8_t out[HASH_SIZE], const uint8_t *text, size_t n)
{
    Hash *h;
    TRY(hash_create(&h));
    int rc = hash_update(h, text, JOURNAL_HEAD - HASH_SIZE);
    if (rc >= 0)
        rc = hash_update(h, text + JOURNAL_HEAD, n - JOURNAL_HEAD);
    if (rc >= 0)
        rc = hash_finish(h, out);
    hash_destroy(h);
    return rc;
}

static int write_all(int fd, const uint8_t *data, size_t n, const char *path)
{
    for (size_t got = 0; got < n;) {
        ssize_t k = pwrite(fd, data + got, n - got, (off_t)got);
        if (k < 0 && errno == EINTR)
            continue;
        if (k < 0)
            return err_errno("%s: write", path);
        got += (size_t)k;
    }
    return fdatasync(fd) < 0 ? err_errno("%s: sync", path) : 0;
}

static int open_journal(H5Journal *j, const char *path)
{
    if (j->journal >= 0)
        return 0;
    if (!j->journal_path)
        TRY(str_format(&j->journal_path, "%s.journal", path));
    j->journal = open(j->journal_path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    return j->journal < 0 ? err_errno("%s", j->journal_path) : io_dir_sync(j->journal_path);
}

static int write_journal(H5Journal *j, const Page *page, size_t n, const char *path)
{
    TRY(open_journal(j, path));
    size_t size = JOURNAL_HEAD + n * (8 + PAGE);
    uint8_t *text = malloc(size), *to = text + JOURNAL_HEAD;
    if (!text)
        return err_set(ERR_NOMEM, "%s: out of memory", path);
    memcpy(text, MAGIC, 8);
    put_u64(text + 8, n);
    put_u64(text + 16, j->size);
    for (size_t i = 0; i < n; i++, to += 8 + PAGE) {
        put_u64(to, page[i].number * PAGE);
        memcpy(to + 8, page[i].data, PAGE);
    }
    int rc = journal_hash(text + JOURNAL_HEAD - HASH_SIZE, text, size);
    if (rc >= 0)
        rc = write_all(j->journal, text, size, j->journal_path);
    free(text);
    if (rc < 0 && ftruncate(j->journal, 0) < 0)
        rc = err_errno("%s", j->journal_path);
    return rc;
}

static int sync_file(const H5Journal *j, const char *path)
{
    return fdatasync(j->fd) < 0 ? err_errno("%s: sync", path) : 0;
}

static int apply(H5Journal *j, const Page *page, size_t n, const char *path)
{
    TRY(write_pages(j, page, n, path));
    if (ftruncate(j->fd, (off_t)j->size) < 0)
        return err_errno("%s: resize", path);
    return 0;
}

/* page: sorted; the first `old` of them change saved bytes. */
static int save_pages(H5Journal *j, const Page *page, size_t n, size_t old, const char *path, int published)
{
    if (!published) { /* nobody relies on the file yet */
        TRY(write_pages(j, page, n, path));
        return ftruncate(j->fd, (off_t)j->size) < 0 ? err_errno("%s: resize", path) : 0;
    }
    if (!j->pending) {
        TRY(write_pages(j, page + old, n - old, path));
        if (n > old)
            TRY(sync_file(j, path));
        TRY(write_journal(j, page, old, path));
        j->pending = 1;
    }
    TRY(apply(j, page, old, path));
    TRY(sync_file(j, path));
    if (ftruncate(j->journal, 0) < 0)
        return err_errno("%s", j->journal_path);
    j->pending = 0;
    return 0;
}

int h5_journal_save(H5Journal *j, const char *path, int published)
{
    if (!j->count && j->size == j->saved)
        return 0;
    Page *list = malloc((j->count + 1) * sizeof *list);
    size_t n = 0, old = 0;
    if (!list)
        return err_set(ERR_NOMEM, "%s: out of memory", path);
    for (size_t i = 0; i < j->cap; i++)
        if (j->page[i].data)
            list[n++] = j->page[i];
    qsort(list, n, sizeof *list, by_number);
    while (old < n && list[old].number * PAGE < j->saved)
        old++;
    int rc = save_pages(j, list, n, old, path, published);
    free(list);
    if (rc < 0)
        return rc;
    forget_pages(j);
    j->saved = j->size;
    return 0;
}

/* ---- after a kill ---- */

static int journal_is_whole(const uint8_t *text, size_t size)
{
    uint8_t sum[HASH_SIZE];
    if (size < JOURNAL_HEAD || memcmp(text, MAGIC, 8) != 0)
        return 0;
    uint64_t n = get_u64(text + 8);
    if (n > size / (8 + PAGE) || size < JOURNAL_HEAD + n * (8 + PAGE))
        return 0;
    return journal_hash(sum, text, JOURNAL_HEAD + n * (8 + PAGE)) >= 0 && memcmp(sum, text + JOURNAL_HEAD - HASH_SIZE, HASH_SIZE) == 0;
}

static int replay(const char *path, const uint8_t *text)
{
    H5Journal j = {.size = get_u64(text + 16)};
    int rc = 0;
    if ((j.fd = open(path, O_RDWR | O_CLOEXEC)) < 0)
        return err_errno("%s", path);
    const uint8_t *p = text + JOURNAL_HEAD;
    for (uint64_t i = 0; i < get_u64(text + 8) && rc >= 0; i++, p += 8 + PAGE) {
        const Page page = {get_u64(p) / PAGE, (uint8_t *)(uintptr_t)(p + 8)};
        rc = write_pages(&j, &page, 1, path);
    }
    if (rc >= 0)
        rc = apply(&j, NULL, 0, path);
    if (rc >= 0)
        rc = sync_file(&j, path);
    close(j.fd);
    return rc;
}

int io_h5_recover(const char *path)
{
    enum { MOST = 1 << 30 };
    char *journal, *text = NULL;
    size_t size = 0;
    int rc = 0;
    TRY(str_format(&journal, "%s.journal", path));
    if (io_file_exists(journal)) {
        rc = io_file_read(&text, &size, journal, MOST);
        if (rc >= 0 && journal_is_whole((const uint8_t *)text, size))
            rc = replay(path, (const uint8_t *)text);
        if (rc >= 0)
            rc = io_file_remove(journal);
    }
    free(text);
    free(journal);
    return rc;
}
