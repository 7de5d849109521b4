"""Device memory of an encoder, measured the same way for each: what the device lost while it was built."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True, slots=True)
class DeviceMemory:
    """One reading, in bytes: used on the device by anybody, and reserved by torch's allocator."""

    used_bytes: int
    reserved_bytes: int

    @classmethod
    def read(cls, device: torch.device, *, release: bool = True) -> DeviceMemory:
        """After the device has finished and, with ``release``, torch has given back what it does not need;
        without, what it keeps at hand for the next call counts as well. Zero on a CPU."""
        if device.type != "cuda":
            return cls(0, 0)
        torch.cuda.synchronize(device)
        if release:
            torch.cuda.empty_cache()
        free, total = torch.cuda.mem_get_info(device)
        return cls(total - free, torch.cuda.memory_reserved(device))

    def since(self, before: DeviceMemory) -> dict[str, int | None]:
        """What was added: buffers and graph pools through torch, the rest (graphs themselves, kernels,
        workspaces, TensorRT) through the driver. Null where the device lost less than torch took: then
        another process gave memory back meanwhile, and the driver's share is not known."""
        torch_bytes = self.reserved_bytes - before.reserved_bytes
        used = self.used_bytes - before.used_bytes
        alone = used >= torch_bytes
        return {
            "torch_bytes": torch_bytes,
            "driver_bytes": used - torch_bytes if alone else None,
            "added_bytes": used if alone else None,
        }


def module_bytes(module: torch.nn.Module) -> int:
    """Parameters and buffers."""
    tensors = (*module.parameters(), *module.buffers())
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
