"""Tenants, keys and base models in memory."""

from typing import Any

import grpc
from google.protobuf.empty_pb2 import Empty

from tests.fake_server.faults import abort
from tests.fake_server.pages import page_of
from trellis.errors import AlreadyExists, FailedPrecondition, NotFound
from trellis.v1 import api_key_pb2, base_model_pb2, tenant_pb2
from trellis.v1.api_key_pb2_grpc import ApiKeyServiceServicer
from trellis.v1.base_model_pb2_grpc import BaseModelServiceServicer
from trellis.v1.tenant_pb2_grpc import TenantServiceServicer


def found(store: dict[str, Any], name: str, context: grpc.ServicerContext) -> Any:
    """The resource, or NOT_FOUND."""
    if name not in store:
        abort(context, NotFound.for_resource(name))
    return store[name]


class Tenants(TenantServiceServicer):
    def __init__(self) -> None:
        self.tenants: dict[str, tenant_pb2.Tenant] = {}
        self.request_ids: list[str] = []

    def CreateTenant(self, request: Any, context: Any) -> Any:
        name = f"tenants/{request.tenant_id}"
        if request.request_id in self.request_ids:
            return self.tenants[name]
        if name in self.tenants:
            abort(context, AlreadyExists("RESOURCE_EXISTS", f"{name} exists."))
        self.request_ids.append(request.request_id)
        tenant = self.tenants[name] = tenant_pb2.Tenant()
        tenant.CopyFrom(request.tenant)
        tenant.name, tenant.etag = name, "1"
        tenant.serving_weight = tenant.serving_weight or 1.0
        tenant.training_weight = tenant.training_weight or 1.0
        tenant.quota.SetInParent()
        self.tenants[name].create_time.FromJsonString("2026-01-02T03:04:05Z")
        return self.tenants[name]

    def GetTenant(self, request: Any, context: Any) -> Any:
        return found(self.tenants, request.name, context)

    def ListTenants(self, request: Any, context: Any) -> Any:
        tenants, token = page_of(list(self.tenants.values()), request)
        return tenant_pb2.ListTenantsResponse(tenants=tenants, next_page_token=token)

    def UpdateTenant(self, request: Any, context: Any) -> Any:
        tenant = found(self.tenants, request.tenant.name, context)
        request.update_mask.MergeMessage(request.tenant, tenant, True, True)
        tenant.etag += "1"
        return tenant

    def DeleteTenant(self, request: Any, context: Any) -> Any:
        found(self.tenants, request.name, context)
        del self.tenants[request.name]
        return Empty()


class ApiKeys(ApiKeyServiceServicer):
    def __init__(self) -> None:
        self.keys: dict[str, api_key_pb2.ApiKey] = {}

    def CreateApiKey(self, request: Any, context: Any) -> Any:
        key = api_key_pb2.ApiKey()
        key.CopyFrom(request.api_key)
        key.name = f"{request.parent}/apiKeys/k{len(self.keys)}"
        key.prefix = "tr_abc"
        self.keys[key.name] = key
        return api_key_pb2.CreateApiKeyResponse(api_key=key, secret="tr_abcdef")

    def GetApiKey(self, request: Any, context: Any) -> Any:
        return found(self.keys, request.name, context)

    def ListApiKeys(self, request: Any, context: Any) -> Any:
        mine = [key for name, key in self.keys.items() if name.startswith(request.parent)]
        keys, token = page_of(mine, request)
        return api_key_pb2.ListApiKeysResponse(api_keys=keys, next_page_token=token)

    def RotateApiKey(self, request: Any, context: Any) -> Any:
        key = found(self.keys, request.name, context)
        if key.HasField("revoke_time"):
            abort(context, FailedPrecondition("INVALID_STATE", f"{key.name} was revoked."))
        key.rotate_time.GetCurrentTime()
        now = key.rotate_time.ToDatetime()
        key.old_secret_expire_time.FromDatetime(now + request.overlap.ToTimedelta())
        if request.HasField("expire_time"):
            key.expire_time.CopyFrom(request.expire_time)
        key.prefix = "tr_new"
        return api_key_pb2.RotateApiKeyResponse(api_key=key, secret="tr_newsecret")

    def RevokeApiKey(self, request: Any, context: Any) -> Any:
        key = found(self.keys, request.name, context)
        key.revoke_time.GetCurrentTime()
        return key


class BaseModels(BaseModelServiceServicer):
    def __init__(self) -> None:
        self.models: dict[str, base_model_pb2.BaseModel] = {}

    def CreateBaseModel(self, request: Any, context: Any) -> Any:
        model = base_model_pb2.BaseModel()
        model.CopyFrom(request.base_model)
        model.name = f"baseModels/{request.base_model_id}"
        self.models[model.name] = model
        return model

    def GetBaseModel(self, request: Any, context: Any) -> Any:
        return found(self.models, request.name, context)

    def ListBaseModels(self, request: Any, context: Any) -> Any:
        models, token = page_of(list(self.models.values()), request)
        return base_model_pb2.ListBaseModelsResponse(base_models=models, next_page_token=token)

    def DeleteBaseModel(self, request: Any, context: Any) -> Any:
        del self.models[found(self.models, request.name, context).name]
        return Empty()
