# Load tests and benchmarks; the Makefile includes this file. docs/load-testing.md, docs/benchmarks.md.

GHZ := out/bin/ghz

.PHONY: ghz load bench bench-across bench-decoders bench-devices bench-encoders bench-gpu bench-highlight-arms \
	bench-highlights bench-locate bench-saliency bench-sampling bench-taehv bench-wan bench-watched protoset

ghz: $(GHZ) ## Install ghz, the gRPC load generator, into out/bin (needs Go)

$(GHZ):
	@mkdir -p out/bin
	GOBIN=$(CURDIR)/out/bin go install github.com/bojand/ghz/cmd/ghz@latest

load: setup $(GHZ) ## Drive a server with ghz, by reflection and by protoset; reports in out/load
	$(BIN)/python -m bench.load --ghz $(GHZ) --out out/load --results out/bench

bench: setup ## All CPU benchmarks, at most 15 minutes; writes the tables and plots of docs/benchmarks.md
	$(BIN)/python -m bench.cpu --docs docs

bench-locate: setup ## How long Locate takes at a front of 500 servers; figures in out/bench
	$(BIN)/python -m bench.locate && $(BIN)/python -m bench.report

DEVICES ?= cuda:0,cuda:1

bench-devices: ## DEVICES=cuda:0,cuda:1 behind one front against one server; figures in out/bench
	$(if $(wildcard $(BIN)/python),$(BIN)/python,$(PYTHON)) -m bench.devices --devices $(DEVICES) && \
	$(if $(wildcard $(BIN)/python),$(BIN)/python,$(PYTHON)) -m bench.report

bench-across: ## One clip of Wan over DEVICES=cuda:0,cuda:1, its parts side by side; needs group bench-wan; figures in out/bench
	$(if $(wildcard $(BIN)/python),$(BIN)/python,$(PYTHON)) -m bench.across --devices $(DEVICES) && \
	$(if $(wildcard $(BIN)/python),$(BIN)/python,$(PYTHON)) -m bench.report

bench-encoders: setup ## One encoder beside segments on several, by size, some minutes; figures in out/bench
	$(BIN)/python -m bench.encoders

bench-gpu: ## All GPU benchmarks, at most 8 minutes, with what video costs at PRICE=4 an hour; figures in out/bench
	$(if $(wildcard $(BIN)/python),$(BIN)/python,$(PYTHON)) -m bench.gpu out/bench $(if $(PRICE),--price $(PRICE)) && \
	$(if $(wildcard $(BIN)/python),$(BIN)/python,$(PYTHON)) -m bench.report

bench-decoders: ## The library's decoders by our engine beside diffusers, at most 4 minutes; figures in out/bench
	$(if $(wildcard $(BIN)/python),$(BIN)/python,$(PYTHON)) -m bench.gpu_decoders

bench-wan: ## Wan on a GPU beside diffusers and fastvae, at most 9 minutes; needs group bench-wan; figures in out/bench
	$(if $(wildcard $(BIN)/python),$(BIN)/python,$(PYTHON)) -m bench.gpu_wan --seconds 520 && \
	$(if $(wildcard $(BIN)/python),$(BIN)/python,$(PYTHON)) -m bench.report

DEVICE ?= cpu

bench-watched: ## What scrapes, the page and a trace cost a stream, on DEVICE=cpu or cuda; figures in out/bench
	$(if $(wildcard $(BIN)/python),$(BIN)/python,$(PYTHON)) -m bench.watched --device $(DEVICE) && \
	$(if $(wildcard $(BIN)/python),$(BIN)/python,$(PYTHON)) -m bench.report

bench/frames.protoset: protos/framehaul/v1/frames_pb2.py protos/framehaul/v1/highlights_pb2.py | setup
	$(BIN)/python -m bench.protoset $@

protoset: bench/frames.protoset ## Descriptors for clients without reflection

bench-highlight-arms bench-saliency bench-taehv: DEVICE = cuda

bench-highlight-arms: ## Highlights step by step, on DEVICE=cuda, two minutes; fails if arms choose other excerpts
	$(if $(wildcard $(BIN)/python),$(BIN)/python,$(PYTHON)) -m bench.highlight_arms --device $(DEVICE) && \
	$(if $(wildcard $(BIN)/python),$(BIN)/python,$(PYTHON)) -m bench.report

bench-sampling: ## How fast films are sampled; fails below the goals
	$(if $(wildcard $(BIN)/python),$(BIN)/python,$(PYTHON)) -m bench.sampling && \
	$(if $(wildcard $(BIN)/python),$(BIN)/python,$(PYTHON)) -m bench.report

bench-taehv: ## The TAEHV family's decode alone, on DEVICE=cuda; figures in out/bench
	$(if $(wildcard $(BIN)/python),$(BIN)/python,$(PYTHON)) -m bench.taehv --device $(DEVICE) && \
	$(if $(wildcard $(BIN)/python),$(BIN)/python,$(PYTHON)) -m bench.report

bench-saliency: ## TASED-Net alone on DEVICE=cuda, form by form, half a minute; figures in out/bench
	$(if $(wildcard $(BIN)/python),$(BIN)/python,$(PYTHON)) -m bench.saliency --device $(DEVICE)

bench-highlights: setup ## Ten films with a planted product, through a real server; fails if less than nine are found
	$(BIN)/python -m bench.highlights --out out/bench/highlights
