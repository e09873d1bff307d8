// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {EzklVerifier} from "../../src/EzklVerifier.sol";
import {Claim} from "../../src/interfaces/IProofVerifier.sol";
import {Halo2Verifier as CommittedPatched} from "../fixtures/EzklCommittedPatched.sol";
import {Halo2Verifier as FixedPatched} from "../fixtures/EzklFixedPatched.sol";
import {Halo2Verifier as PolycommitPatched} from "../fixtures/EzklPolycommitPatched.sol";
import {Halo2Verifier as PublicPatched} from "../fixtures/EzklPublicPatched.sol";
import {Test} from "./Test.sol";

/// @dev Real ezkl proofs, made by `fixtures/make_fixture.py`, and adapters over their verifiers.
abstract contract EzklFixture is Test {
    bytes32 internal constant CIRCUIT = keccak256("circuit");

    struct Proven {
        Claim claim;
        bytes proof;
        uint256[] instances;
    }

    string internal committedJson = vm.readFile("test/fixtures/ezkl_committed.json");
    string internal publicJson = vm.readFile("test/fixtures/ezkl_public.json");
    string internal fixedJson = vm.readFile("test/fixtures/ezkl_fixed.json");
    string internal polycommitJson = vm.readFile("test/fixtures/ezkl_polycommit.json");

    function proven(string memory json, string memory name) internal pure returns (Proven memory) {
        string memory key = string.concat(".", name);
        return Proven({
            claim: Claim({
                circuitId: CIRCUIT,
                weights: vm.parseJsonBytes32(json, string.concat(key, ".weights")),
                input: vm.parseJsonBytes(json, string.concat(key, ".input")),
                outputs: vm.parseJsonIntArray(json, string.concat(key, ".outputs"))
            }),
            proof: vm.parseJsonBytes(json, string.concat(key, ".proof")),
            instances: vm.parseJsonUintArray(json, string.concat(key, ".instances"))
        });
    }

    function deployCommitted() internal returns (EzklVerifier) {
        return adapter(address(new CommittedPatched()), committedJson, true);
    }

    function deployFixed() internal returns (EzklVerifier) {
        return adapter(address(new FixedPatched()), fixedJson, true);
    }

    function deployPolycommit() internal returns (EzklVerifier) {
        return adapter(address(new PolycommitPatched()), polycommitJson, false);
    }

    function deployPublic() internal returns (EzklVerifier) {
        return adapter(address(new PublicPatched()), publicJson, false);
    }

    function adapter(address raw, string memory json, bool committed) internal returns (EzklVerifier) {
        return new EzklVerifier(raw, terms(json, committed));
    }

    function terms(string memory json, bool committed) internal pure returns (EzklVerifier.Terms memory) {
        return EzklVerifier.Terms({
            circuitId: CIRCUIT,
            weights: vm.parseJsonBytes32(json, ".first.weights"),
            weightsMode: EzklVerifier.Weights(vm.parseJsonUint(json, ".weights_mode")),
            weightsPoints: vm.parseJsonUint(json, ".weights_points"),
            committedInput: committed,
            inputCount: vm.parseJsonUint(json, ".input_count"),
            outputCount: vm.parseJsonUint(json, ".output_count"),
            proofLength: vm.parseJsonUint(json, ".proof_size_bytes")
        });
    }
}
