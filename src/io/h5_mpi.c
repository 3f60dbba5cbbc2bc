#include "io/h5.h"
#include "io/h5_impl.h"

#ifdef H5_HAVE_PARALLEL

int io_h5_is_parallel(void) { return 1; }

int h5_mpi_access(hid_t access, const void *mpi) { return H5Pset_fapl_mpio(access, *(const MPI_Comm *)mpi, MPI_INFO_NULL) < 0 ? -1 : 0; }

static int select_rows(hid_t space, const IoH5Info *info, int64_t begin, int64_t rows, hid_t *mem)
{
    hsize_t start[IO_H5_MAX_DIM] = {(hsize_t)begin}, count[IO_H5_MAX_DIM];
    for (int i = 0; i < info->ndim; i++)
        count[i] = (hsize_t)(i ? info->dim[i] : rows);
    *mem = H5Screate_simple(info->ndim, count, NULL);
    if (rows)
        return H5Sselect_hyperslab(space, H5S_SELECT_SET, start, NULL, count, NULL) < 0;
    return H5Sselect_none(space) < 0 || H5Sselect_none(*mem) < 0;
}

/* Collective also where this rank writes nothing: only so can compressed chunks find their places. */
int io_h5_write_rows_shared(IoH5 *f, const char *name, Dtype t, int64_t begin, int64_t rows, const void *data)
{
    hid_t set = H5I_INVALID_HID, mem = H5I_INVALID_HID;
    IoH5Info info;
    H5_CALL;
    TRY(h5_open_dataset(f, name, &set));
    int rc = h5_describe(f, name, set, &info);
    if (rc >= 0 && (info.dtype != t || info.ndim < 1 || begin < 0 || rows < 0 || begin > info.dim[0] || rows > info.dim[0] - begin))
        rc = err_set(ERR_RANGE, "%s: %s: rows %lld..%lld do not fit", f->path, name, (long long)begin, (long long)(begin + rows));
    if (rc >= 0) {
        hid_t type = h5_type_of(t), space = H5Dget_space(set), how = H5Pcreate(H5P_DATASET_XFER);
        int bad = select_rows(space, &info, begin, rows, &mem) || H5Pset_dxpl_mpio(how, H5FD_MPIO_COLLECTIVE) < 0 ||
                  H5Dwrite(set, type, mem, space, how, data) < 0;
        rc = bad ? h5_fail(ERR_IO, f, name, "cannot write") : 0;
        H5Sclose(mem);
        H5Sclose(space);
        H5Pclose(how);
        H5Tclose(type);
    }
    H5Dclose(set);
    return rc;
}

#else

int io_h5_is_parallel(void) { return 0; }

int h5_mpi_access(hid_t access, const void *mpi)
{
    (void)access;
    return mpi ? -1 : 0;
}

int io_h5_write_rows_shared(IoH5 *f, const char *name, Dtype t, int64_t begin, int64_t rows, const void *data)
{
    (void)t, (void)begin, (void)rows, (void)data;
    return err_set(ERR_UNSUPPORTED, "%s: %s: this program's HDF5 writes files by one process only", f->path, name);
}

#endif
