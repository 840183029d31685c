#pragma once

#include "acl/acl_base.h"
#include "acl/acl_rt.h"

extern "C" {

ACL_FUNC_VISIBILITY aclError aclInit(const char *configPath);
ACL_FUNC_VISIBILITY aclError aclFinalize();
ACL_FUNC_VISIBILITY aclError aclrtGetVersion(int32_t *majorVersion, int32_t *minorVersion, int32_t *patchVersion);
// The last failure in words; here the simulator's whole line. Null when nothing failed since the last call.
ACL_FUNC_VISIBILITY const char *aclGetRecentErrMsg();

}  // extern "C"
